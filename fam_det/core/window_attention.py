"""Window attention with a softmax per channel, without a copy of the maps per window position.

The plain formula gathers the k * k neighbours of every position in keys and values and keeps them,
their products and the softmax for the backward pass. Here each window position is a shifted view
of the padded map, the softmax is summed position by position, and the backward pass computes
it again from the saved normaliser, as FlashAttention (Dao et al. 2022) does for token attention.

Legend: N batch, C channels, H and W map size, k window side.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def window_attention(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Weighted sum of the values in the window around each position.

    With j over the k x k window positions, for each channel on its own::

        out = sum_j softmax_j(query * (key_j + offset_j)) * value_j

    Args:
        query: (N, C, H, W).
        key: (N, C, H, W); zero outside.
        value: (N, C, H, W); zero outside.
        offsets: (C, k, k), k odd.

    Returns:
        (N, C, H, W). It can be differentiated once.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)  # a softmax in half precision drifts
    out: Tensor = _WindowAttention.apply(*(x.to(dtype) for x in (query, key, value, offsets)))
    return out.to(query.dtype)


def _shifts(padded: Tensor, height: int, width: int, k: int) -> Iterator[tuple[int, int, Tensor]]:
    """Window row, window column and the view of ``padded`` that lies there."""
    for i in range(k):
        for j in range(k):
            yield i, j, padded[:, :, i : i + height, j : j + width]


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
        height, width = query.shape[2:]
        k = offsets.shape[-1]
        keys, values = (F.pad(x, [k // 2] * 4) for x in (key, value))
        offset = offsets[..., None, None]  # (C, k, k, 1, 1)
        peak = torch.full_like(query, -torch.inf)
        for i, j, view in _shifts(keys, height, width, k):
            torch.maximum(peak, (view + offset[:, i, j]).mul_(query), out=peak)
        total, out = torch.zeros_like(query), torch.zeros_like(query)
        value_views = _shifts(values, height, width, k)
        for (i, j, view), (_, _, value) in zip(
            _shifts(keys, height, width, k), value_views, strict=True
        ):
            weight = (view + offset[:, i, j]).mul_(query).sub_(peak).exp_()
            total += weight
            out.addcmul_(weight, value)
        out /= total
        ctx.save_for_backward(query, keys, values, offsets, out, peak.add_(total.log_()))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, keys, values, offsets, out, normaliser = ctx.saved_tensors
        height, width = query.shape[2:]
        k = offsets.shape[-1]
        offset = offsets[..., None, None]
        d_query, d_offset = torch.zeros_like(query), torch.zeros_like(offsets)
        d_keys, d_values = torch.zeros_like(keys), torch.zeros_like(values)
        grad_out = grad * out
        value_views = _shifts(values, height, width, k)
        for (i, j, view), (_, _, value) in zip(
            _shifts(keys, height, width, k), value_views, strict=True
        ):
            shifted_key = view + offset[:, i, j]
            weight = (query * shifted_key).sub_(normaliser).exp_()  # softmax at this position
            window = (..., slice(i, i + height), slice(j, j + width))
            d_values[window] += weight * grad
            d_logit = (grad * value).sub_(grad_out).mul_(weight)
            d_query.addcmul_(d_logit, shifted_key)
            d_key = d_logit.mul_(query)
            d_keys[window] += d_key
            d_offset[:, i, j] = d_key.sum(dim=(0, 2, 3))
        r = k // 2
        inner = (..., slice(r, r + height), slice(r, r + width))
        return d_query, d_keys[inner], d_values[inner], d_offset
