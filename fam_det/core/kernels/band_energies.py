"""Energies of two maps, and their product, in bands of frequencies, channel by channel.

Legend: N batch, C channels, H and W map size, V = W // 2 + 1 columns of the half plane, B bands.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fam_det.core.kernels import chunks
from fam_det.core.kernels.spectrum import CHUNK, irfft2, rfft2


def band_energies(x: Tensor, y: Tensor, mean_x: Tensor, mean_y: Tensor, counts: Tensor) -> Tensor:
    """Sums |X|^2, |Y|^2 and Re(X conj Y) over each band, X and Y the spectra of centred maps.

    Args:
        x: (N, C, H, W).
        y: (N, C, H, W); takes no gradient.
        mean_x: (C,), subtracted from ``x`` first; takes no gradient.
        mean_y: (C,), subtracted from ``y`` first.
        counts: (H, V, B), how often each bin of the half plane counts in each band.

    Returns:
        (3, C, B). It can be differentiated once.
    """
    sums: Tensor = _BandEnergies.apply(x, y, mean_x, mean_y, counts)
    return sums


class _BandEnergies(torch.autograd.Function):
    """Plain operators would make ten maps of the size of the spectra for the products."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, mean_x: Tensor, mean_y: Tensor, counts: Tensor
    ) -> Tensor:
        n, channels, _, width = x.shape
        spectra = x.new_empty(2, channels, n, *counts.shape[:2], dtype=x.dtype.to_complex())
        sums = x.new_empty(3, channels, counts.shape[2])
        weights = counts.flatten(0, 1).repeat_interleave(2, dim=0)  # of real and imaginary parts
        with torch.autocast(x.device.type, enabled=False):  # sums of squares in float32
            for c in chunks(channels, x[:, 0].numel(), CHUNK, x.device):
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
        for c in chunks(channels, spectra[0, 0].numel(), CHUNK, grad.device):
            with torch.autocast(grad.device.type, enabled=False):
                of_x, of_y = (
                    (k @ inside).view(-1, 1, height, columns)
                    for k in (2.0 * grad[0, c], grad[2, c])
                )
            d_spectrum = (spectra[0, c] * of_x).add_(spectra[1, c] * of_y)
            d_x[:, c] = irfft2(d_spectrum, ctx.width).transpose(0, 1)
        return d_x, None, None, None, None
