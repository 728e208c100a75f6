"""1x1 convolution as a matrix product.

On the CPU oneDNN copies maps to a layout of its own and back, and forms the weight's gradient
slowly; a matrix product takes maps as they lie.

Legend: N batch, C_in and C_out channels, H and W map size.
"""

import torch
from torch import Tensor

from fam_det.core.kernels import chunks

CHUNK = 2**18  # values of the products that are summed at once: 1 MiB of float32


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """Mixes the channels at every position: (N, C_in, H, W), (C_out, C_in) -> (N, C_out, H, W)."""
    return torch.bmm(weight.expand(len(x), -1, -1), x.flatten(2)).unflatten(2, x.shape[2:])


def add_pointwise_(out: Tensor, weight: Tensor, x: Tensor, *, beta: int = 1) -> Tensor:
    """Adds :func:`pointwise` of ``x`` to ``beta`` * ``out``, contiguous, in place.

    It is computed in the dtype of ``weight``.
    """
    x = x.to(weight.dtype)
    if out.dtype != weight.dtype:
        return out.mul_(beta).add_(pointwise(x, weight))
    columns = out.view(*out.shape[:2], -1)
    columns.baddbmm_(weight.expand(len(x), -1, -1), x.flatten(2), beta=beta)
    return out


def pointwise_weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    """Returns the weight's gradient: (N, C_out, H, W), (N, C_in, H, W) -> (C_out, C_in)."""
    grads, maps = grad.flatten(2), x.flatten(2)
    dtype = torch.promote_types(grad.dtype, torch.float32)
    total = grad.new_zeros(grad.shape[1], x.shape[1], dtype=dtype)
    for images in chunks(len(x), total.numel(), CHUNK, x.device):
        total += torch.bmm(grads[images], maps[images].mT).sum(0)
    return total.to(grad.dtype)
