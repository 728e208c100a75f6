"""Complex matrix products, in half precision too, which has no complex numbers.

Legend: ... batch, N rows, C summed dimension, D columns.
"""

import torch
from torch import Tensor


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
