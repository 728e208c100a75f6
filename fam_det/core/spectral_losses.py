"""Losses between feature maps that weigh their frequencies.

Legend: N batch, C channels, H and W map size, V = W // 2 + 1 columns of the half plane, B bands.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fam_det.core.kernels.chunks import pieces
from fam_det.core.kernels.spectrum import PIECE, irfft2, multiplicity, rfft2
from fam_det.core.losses import ValidSizes, check_valid_sizes, comparable
from fam_det.core.peer_losses import EPSILON

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

    Raises:
        ValueError: shapes that differ, or sizes that are not one an image and within the map.
    """
    maps = list(_stacks(*comparable(student, teacher), valid_sizes))
    means = [_channel_means(side) for side in zip(*maps, strict=True)]
    counts = [_bands(x.shape[2], x.shape[3], edges).to(x) for x, _ in maps]  # (H, V, B) each
    sums = [_BandEnergies.apply(x, y, *means, n) for (x, y), n in zip(maps, counts, strict=True)]
    xx, yy, xy = torch.stack(sums).sum(0)  # (C, B) each
    bins = torch.stack([len(x) * n.sum((0, 1)) for (x, _), n in zip(maps, counts, strict=True)])
    floor = EPSILON * bins.sum(0)  # (B,)
    correlation = xy * ((xx + floor) * (yy + floor)).clamp(min=1e-30).rsqrt()
    return 1.0 - correlation[:, floor > 0].mean()


def _stacks(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Both maps of the images of one size together, (n, C, h, w): one transform for all of them."""
    if valid_sizes is None:
        valid_sizes = [(student.shape[2], student.shape[3])] * len(student)
    check_valid_sizes(valid_sizes, student)
    for h, w in sorted(set(valid_sizes)):
        here = [i for i, size in enumerate(valid_sizes) if size == (h, w)]
        chosen = slice(None) if len(here) == len(student) else here
        yield student[chosen, :, :h, :w], teacher[chosen, :, :h, :w]


@torch.no_grad()
def _channel_means(maps: Sequence[Tensor]) -> Tensor:
    """Mean of each channel over all cells of (n, C, h, w) each: (C,).

    No gradient passes: what the mean does to one map's energies it takes back from the others'.
    """
    sums = torch.stack([m.sum((0, 2, 3)) for m in maps])
    return sums.sum(0) / sum(m[:, 0].numel() for m in maps)


class _BandEnergies(torch.autograd.Function):
    """Sums of |X|^2, |Y|^2 and Re(X conj Y) over each band, (3, C, B).

    With plain operators the products would make ten maps of the size of the spectra.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, mean_x: Tensor, mean_y: Tensor, counts: Tensor
    ) -> Tensor:
        n, channels, _, width = x.shape
        spectra = x.new_empty(2, channels, n, *counts.shape[:2], dtype=x.dtype.to_complex())
        sums = x.new_empty(3, channels, counts.shape[2])
        weights = counts.flatten(0, 1).repeat_interleave(2, dim=0)  # of real and imaginary parts
        with torch.autocast(x.device.type, enabled=False):  # sums of squares in float32
            for c in pieces(channels, x[:, 0].numel(), PIECE, x.device):
                fx, fy = (
                    rfft2((m[:, c] - mean[c, None, None]).transpose(0, 1))
                    for m, mean in ((x, mean_x), (y, mean_y))
                )  # (c, n, H, V)
                spectra[0, c], spectra[1, c] = fx, fy
                a, b = torch.view_as_real(fx), torch.view_as_real(fy)
                for k, (p, q) in enumerate(((a, a), (b, b), (a, b))):
                    sums[k, c] = ((p * q).flatten(2) @ weights).sum(1)
        ctx.save_for_backward(spectra, counts)
        ctx.width = width
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        spectra, counts = ctx.saved_tensors
        _, channels, n, height, columns = spectra.shape
        d_x = grad.new_empty(n, channels, height, ctx.width)
        inside = (counts > 0).to(grad).flatten(0, 1).T  # (B, H * V)
        for c in pieces(channels, spectra[0, 0].numel(), PIECE, grad.device):
            of_x, of_y = (
                (k @ inside).view(-1, 1, height, columns) for k in (2.0 * grad[0, c], grad[2, c])
            )
            d_spectrum = (spectra[0, c] * of_x).add_(spectra[1, c] * of_y)
            d_x[:, c] = irfft2(d_spectrum, ctx.width).transpose(0, 1)
        return d_x, None, None, None, None


def _bands(height: int, width: int, edges: Sequence[float]) -> Tensor:
    """How often each bin of the half plane counts in each band, float64 (H, V, B)."""
    u = 2.0 * torch.fft.fftfreq(height, dtype=torch.float64).abs()[:, None]
    v = 2.0 * torch.fft.rfftfreq(width, dtype=torch.float64)[None, :]
    band = torch.bucketize(torch.maximum(u, v), torch.tensor(edges, dtype=u.dtype), right=True)
    return F.one_hot(band, len(edges) + 1) * multiplicity(width)[:, None]
