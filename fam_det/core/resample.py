"""Resamples feature maps to fewer cells, for a student with a smaller image than its teacher.

With a scale s, cell i of the result covers the cells from s i to s (i + 1) of the source, so its
centre is at s (i + 1/2) - 1/2 in cells of the source. All methods are linear and act on rows and
columns alike: out = R_h x R_w^T.

Legend: N batch, C channels, H and W size of the source, h and w that of the result.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from fam_det.core.checks import check_option


def spectrum_matrix(cells: int, count: int, scale: float) -> Tensor:
    """Returns the matrix that crops the spectrum at the new Nyquist frequency.

    The spectrum is that of the map mirrored at its edges (the DCT-II), so no seam joins opposite
    edges and a constant map stays constant. On the mirrored map it is sinc interpolation.

    Args:
        cells: H.
        count: h.
        scale: s, 1 or more.

    Returns:
        float64 (h, H).
    """
    # Frequency k has k / 2 cycles over the source; the Nyquist frequency is 1 / (2 s) a cell.
    k = torch.arange(max(math.ceil(cells / scale - 1e-9), 1)).double()
    source = (torch.arange(cells).double() + 0.5) / cells
    target = (torch.arange(count).double() + 0.5) * scale / cells
    norm = (2.0 - (k == 0).double()) / cells
    forward = norm[:, None] * torch.cos(math.pi * k[:, None] * source)  # (K, H)
    return torch.cos(math.pi * target[:, None] * k) @ forward


def area_matrix(cells: int, count: int, scale: float) -> Tensor:
    """Returns the matrix of the mean over the area that each cell covers; see ``spectrum_matrix``.

    A cell that extends beyond the source's edge is the mean over its part inside.
    """
    start = torch.arange(count).double()[:, None] * scale
    cell = torch.arange(cells).double()
    overlap = torch.minimum(start + scale, cell + 1) - torch.maximum(start, cell)  # (h, H)
    overlap = overlap.clamp(min=0)
    return overlap / overlap.sum(1, keepdim=True)


METHODS = {"spectrum": spectrum_matrix, "area": area_matrix}


def resample(x: Tensor, size: tuple[int, int], scale: float, method: str = "spectrum") -> Tensor:
    """Resamples maps to cells that are ``scale`` times as large.

    Args:
        x: (N, C, H, W), any floating type.
        size: (h, w), at most 1 more than (H, W) / s.
        scale: s, 1 or more.
        method: of ``METHODS``.

    Returns:
        (N, C, h, w).

    Raises:
        ValueError: a scale below 1.
    """
    check_option("scale", scale, scale >= 1, "1 or more")
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = (
        _matrix(method, cells, count, scale, dtype, x.device)
        for cells, count in zip(x.shape[2:], size, strict=True)
    )
    with torch.autocast(x.device.type, enabled=False):
        return (rows @ x.to(dtype) @ columns.T).to(x.dtype)


@lru_cache(maxsize=256)
def _matrix(
    method: str, cells: int, count: int, scale: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return METHODS[method](cells, count, scale).to(device, dtype)
