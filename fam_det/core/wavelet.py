"""The Haar wavelet transform of feature maps.

Orthonormal: the squares of all bands together sum to those of the maps. An odd side counts as one
cell of zeros longer, as in the "zero" mode of PyWavelets.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def haar_bands(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the transform.

    Args:
        x: (..., H, W), real.

    Returns:
        The low band (..., ceil(H / 2), ceil(W / 2)), and the three others, (..., 3, ceil(H / 2),
        ceil(W / 2)): differences of rows, of columns, and of both.
    """
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    upper, lower = x[..., 0::2, :], x[..., 1::2, :]
    (a, b), (c, d) = ((row[..., 0::2], row[..., 1::2]) for row in (upper, lower))
    high = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=-3)
    return (a + b + c + d) / 2, high / 2


def haar_pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """The three high bands of each of so many levels, fine to coarse.

    Args:
        x: (..., H, W), real.
        levels: 1 or more.

    Returns:
        (..., 3, ceil(H / 2^j), ceil(W / 2^j)) for j of 1 to ``levels``.
    """
    bands = []
    for _ in range(levels):
        x, high = haar_bands(x)
        bands.append(high)
    return bands
