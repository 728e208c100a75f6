"""Losses between feature maps that weigh their frequencies.

Legend: N batch, C channels, H and W map size, V = W // 2 + 1 columns of the half plane, B bands.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core.losses import ValidSizes
from fam_det.core.peer_losses import EPSILON, images_of
from fam_det.core.spectrum import multiplicity, rfft2

BAND_EDGES = (0.125, 0.25, 0.5)  # octaves below the Nyquist frequency


def spectral_correlation_loss(
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None = None,
    *,
    edges: Sequence[float] = BAND_EDGES,
) -> Tensor:
    """One minus the correlation of student and teacher in each channel and band of frequencies.

    The mean squared error, and Pearson's correlation (PKD) with it, hear little but the lowest
    frequencies, which hold most of a feature map's energy. Here each channel is cut into bands, and
    each band counts alike, whatever its energy. With a single band it is PKD's loss, by Parseval.

    A band holds the frequencies whose larger coordinate lies between two edges: boxes, as of the
    ideal high-pass filter. A band that no frequency of the maps falls into does not count. Maps are
    centred by each channel's mean over the batch, so a map's own mean is in the lowest band.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: (h, w) of each image's top left cells that count, None for all.
        edges: between the bands, rising, as fractions of the Nyquist frequency.

    Returns:
        Scalar in [0, 2], float32 (float64 for float64 maps).
    """
    pairs = images_of(student, teacher, valid_sizes)
    xs, ys = (centred(maps) for maps in zip(*pairs, strict=True))
    sums = [_band_energies(x, y, edges) for x, y in _stacks(xs, ys)]
    xx, yy, xy = torch.stack([energies for energies, _ in sums]).sum(0)  # (C, B) each
    counts = torch.stack([bins for _, bins in sums]).sum(0)  # (B,)
    floor = EPSILON * counts
    correlation = xy * ((xx + floor) * (yy + floor)).clamp(min=1e-30).rsqrt()
    return 1.0 - correlation[:, counts > 0].mean()


def centred(maps: Sequence[Tensor]) -> list[Tensor]:
    """(C, h, w) each, less the mean of each channel over all of them."""
    mean = torch.cat([m.flatten(1) for m in maps], dim=1).mean(1)
    return [m - mean[:, None, None] for m in maps]


def _stacks(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    """Maps of one size together, (n, C, h, w): one transform for all of them."""
    for size in sorted({x.shape[1:] for x in xs}):
        here = [i for i, x in enumerate(xs) if x.shape[1:] == size]
        yield torch.stack([xs[i] for i in here]), torch.stack([ys[i] for i in here])


def _band_energies(x: Tensor, y: Tensor, edges: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Sums of |X|^2, |Y|^2 and Re(X conj Y) over each band, (3, C, B), and its bins, (B,)."""
    n, _, height, width = x.shape
    bands = _bands(height, width, edges).to(x)  # (H * V, B)
    fx, fy = (torch.view_as_real(rfft2(m)) for m in (x, y))  # (n, C, H, V, 2)
    products = torch.stack([(a * b).sum(-1).sum(0) for a, b in ((fx, fx), (fy, fy), (fx, fy))])
    with torch.autocast(x.device.type, enabled=False):  # sums of squares in float32
        return products.flatten(2) @ bands, n * bands.sum(0)


def _bands(height: int, width: int, edges: Sequence[float]) -> Tensor:
    """How often each bin of the half plane counts in each band, float64 (H * V, B)."""
    u = 2.0 * torch.fft.fftfreq(height, dtype=torch.float64).abs()[:, None]
    v = 2.0 * torch.fft.rfftfreq(width, dtype=torch.float64)[None, :]
    band = torch.bucketize(torch.maximum(u, v), torch.tensor(edges, dtype=u.dtype), right=True)
    return (F.one_hot(band, len(edges) + 1) * multiplicity(width)[:, None]).flatten(0, 1).double()
