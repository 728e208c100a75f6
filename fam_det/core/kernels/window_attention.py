"""Window attention with a softmax per channel, a few channels at a time.

The plain formula gathers the k * k neighbours of every position in keys and values and keeps them,
their products and the softmax for the backward pass. Channels are independent, so a chunk of a few
goes through all steps while it is in the processor's cache; the backward pass recomputes the
softmax, as FlashAttention (Dao et al. 2022) does for token attention.

Legend: N batch, C channels, H and W map size, k window side.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fam_det.core.kernels import chunks

CHUNK = 2**15  # values of a map that are worked on at once, k * k times as many in a buffer


def window_attention(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Sums the values in the window around each position, weighted.

    With j over the k x k window positions, separately for each channel::

        out = sum_j softmax_j(query * (key_j + offset_j)) * value_j

    Args:
        query: (N, C, h, w); resized to H x W by the nearest neighbour.
        key: (N, C, H, W); zero outside.
        value: (N, C, H, W); zero outside.
        offsets: (C, k, k), k odd.

    Returns:
        (N, C, H, W). It can be differentiated once.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)  # a softmax in half precision drifts
    out: Tensor = _WindowAttention.apply(*(x.to(dtype) for x in (query, key, value, offsets)))
    return out.to(query.dtype)


class _WindowAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
        k = offsets.shape[-1]
        out = torch.empty_like(key, memory_format=torch.contiguous_format)
        for chunk, (buffer,) in _channel_chunks(key, k, 1):
            torch.add(_windows(key[chunk], k), _by_window(offsets[chunk[1]]), out=buffer)
            weight = _softmax_(buffer.mul_(resize_nearest(query[chunk], key.shape[2:])))
            torch.sum(weight.mul_(_windows(value[chunk], k)), (0, 1), out=out[chunk])
        ctx.save_for_backward(query, key, value, offsets, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        query, key, value, offsets, out = ctx.saved_tensors
        k = offsets.shape[-1]
        d_query, d_key, d_value = (
            torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)
        )
        d_offsets = torch.zeros_like(offsets)
        for chunk, (keys, weight, d_logit) in _channel_chunks(key, k, 3):
            q, g = resize_nearest(query[chunk], key.shape[2:]), grad[chunk]
            torch.add(_windows(key[chunk], k), _by_window(offsets[chunk[1]]), out=keys)
            _softmax_(torch.mul(keys, q, out=weight))
            # sum_j weight_j * value_j is the output: the mean that a softmax takes off its gradient
            torch.sub(_windows(value[chunk], k), out[chunk], out=d_logit)
            d_logit.mul_(weight.mul_(g))
            d_value[chunk] = _sum_windows(weight)
            d_q = keys.mul_(d_logit).sum((0, 1))
            d_query[chunk] = _resize_nearest_adjoint(d_q, query[chunk])
            d_key[chunk] = _sum_windows(d_logit.mul_(q))
            d_offsets[chunk[1]] += d_logit.sum((2, 4, 5)).permute(2, 0, 1)
        return d_query, d_key, d_value, d_offsets


def _channel_chunks(
    x: Tensor, k: int, buffers: int
) -> Iterator[tuple[tuple[slice, slice], list[Tensor]]]:
    """Cuts (N, C, H, W) along images and channels, with buffers (k, k, n, c, H, W) each.

    The buffers are the same memory for every chunk.
    """
    n, c, height, width = x.shape
    area = height * width
    memory: list[Tensor] = []
    for images in chunks(n, c * area, CHUNK, x.device):
        for channels in chunks(c, (images.stop - images.start) * area, CHUNK, x.device):
            shape = (k, k, *x[images, channels].shape)
            if not memory:  # the first chunk is the largest
                memory = [x.new_empty(math.prod(shape)) for _ in range(buffers)]
            yield (images, channels), [m[: math.prod(shape)].view(shape) for m in memory]


def resize_nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes maps (N, C, H, W) by the nearest neighbour; returns maps of that size unchanged."""
    return x if tuple(x.shape[2:]) == tuple(size) else F.interpolate(x, list(size), mode="nearest")


def _resize_nearest_adjoint(grad: Tensor, like: Tensor) -> Tensor:
    """Sums over the cells that show each cell of ``like``: gradient of :func:`resize_nearest`."""
    if grad.shape == like.shape:
        return grad
    size = list(grad.shape[2:])
    return torch.ops.aten.upsample_nearest2d_backward(grad, size, list(like.shape))


def _windows(x: Tensor, k: int) -> Tensor:
    """Views the k x k neighbours, zero outside: (n, c, H, W) -> (k, k, n, c, H, W)."""
    padded = F.pad(x, [k // 2] * 4)
    return padded.unfold(2, k, 1).unfold(3, k, 1).permute(4, 5, 0, 1, 2, 3)


def _sum_windows(windows: Tensor) -> Tensor:
    """Applies the adjoint of :func:`_windows`: (k, k, n, c, H, W) -> (n, c, H, W)."""
    k, _, n, c, height, width = windows.shape
    padded = windows.new_zeros(n, c, height + k - 1, width + k - 1)
    for i in range(k):
        for j in range(k):
            padded[..., i : i + height, j : j + width] += windows[i, j]
    r = k // 2
    return padded[..., r : r + height, r : r + width]


def _by_window(offsets: Tensor) -> Tensor:
    """Views (c, k, k) as (k, k, 1, c, 1, 1)."""
    return offsets.permute(1, 2, 0)[:, :, None, :, None, None]


def _softmax_(logits: Tensor) -> Tensor:
    """Takes the softmax over the window positions, in place: (k, k, n, c, H, W)."""
    flat = logits.flatten(0, 1)
    torch.softmax(flat, 0, out=flat)
    return logits
