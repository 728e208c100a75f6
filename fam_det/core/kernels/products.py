"""Matrix products: 1x1 convolutions, and complex matrices in half precision.

On the CPU oneDNN's 1x1 convolution copies maps to its own layout and back, and its weight gradient
is slow; a matrix product reads maps in the layout they have.

Legend: N batch, C_in and C_out channels, H and W map size; of complex matrices (..., N, C) and
(..., C, D).
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


def complex_matmul(a: Tensor, b: Tensor, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Returns ``a @ b``, in half precision as one real matrix product.

    Args:
        a: complex (..., N, C).
        b: complex (..., C, D).
        dtype: real type to compute in. Only bfloat16 and float16 change anything.
        out: complex (..., N, D) to write to.

    Returns:
        complex (..., N, D) of the type of ``a``; ``out`` if that is given.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return torch.matmul(a, b, out=out)
    n, d = a.shape[-2], b.shape[-1]
    left, left_scale = _scaled(torch.cat([a.real, a.imag], -2), dtype)  # (..., 2N, C)
    right, right_scale = _scaled(torch.cat([b.real, b.imag], -1), dtype)  # (..., C, 2D)
    products = (left @ right).to(a.real.dtype)  # (..., 2N, 2D)
    if left_scale is not None and right_scale is not None:
        products = products * (left_scale * right_scale)
    result = torch.complex(
        products[..., :n, :d] - products[..., n:, d:],
        products[..., :n, d:] + products[..., n:, :d],
    )
    return result if out is None else out.copy_(result)


def _scaled(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Returns a matrix in half precision, and the factor for a product with it.

    A filter of 256 x 256 channels starts near 1e-5, where float16 has few digits left, and spectra
    have a large zero frequency; bfloat16 has the range of float32.
    """
    if dtype != torch.float16 or x.numel() == 0:
        return x.to(dtype), None
    scale = x.detach().abs().amax().clamp(min=torch.finfo(x.dtype).tiny)
    return (x / scale).to(dtype), scale
