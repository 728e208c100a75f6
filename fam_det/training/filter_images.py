"""Puts images of a distiller's filters in Detectron2's event storage, for TensorBoard."""

from typing import cast

import torch
from torch import Tensor, nn

from fam_det.core import FrequencyAttention
from fam_det.core.filters import (
    BandedFilter,
    DenseFilter,
    PooledFilter,
    SeparableFilter,
)

from detectron2.engine import HookBase

Filter = DenseFilter | BandedFilter | SeparableFilter
SEPARABLE_SIZE = 32  # side of the image of a separable filter, which takes any map size
PIXEL = 4  # pixels of the image per frequency, in height and width


class FilterImages(HookBase):
    """Draws |K| of a distiller's frequency attention modules, zero frequency in the middle."""

    def __init__(self, distiller: nn.Module, period: int) -> None:
        self.period = period
        levels = getattr(distiller, "levels", [])
        modules = [m for m in distiller.modules() if isinstance(m, FrequencyAttention)]
        self.filters = {
            level: module.filter
            for level, module in zip(levels, modules, strict=False)
            if module.filter is not None
        }

    @torch.no_grad()
    def after_step(self) -> None:
        """Draws them every ``period`` iterations, from the first step on."""
        if self.trainer.iter % self.period:
            return
        for level, module in self.filters.items():
            if isinstance(module, PooledFilter):
                module = module.dense
            plane = magnitude(cast(Filter, module))
            plane = (plane / plane.max().clamp(min=1e-12)).cpu()
            image = plane.repeat_interleave(PIXEL, 0).repeat_interleave(PIXEL, 1)
            self.trainer.storage.put_image(f"distiller/filter of {level}", image.expand(3, -1, -1))


@torch.no_grad()
def magnitude(module: Filter) -> Tensor:
    """Returns |K| averaged over input and output channels, zero frequency at (H // 2, W // 2).

    (H, W) is the size of a dense filter, the grid of a banded one, ``SEPARABLE_SIZE`` otherwise.
    """
    if isinstance(module, SeparableFilter):
        # K = mix * gain: the mean of |K| without forming (H, V, C_in, C_out).
        gains = module.gains(SEPARABLE_SIZE, SEPARABLE_SIZE).abs()  # (C_in, H, V)
        mix = module.mix.weight[:, :, 0, 0].abs().mean(0)  # (C_in,)
        return full_plane((gains * mix[:, None, None]).mean(0), SEPARABLE_SIZE)
    if isinstance(module, DenseFilter):
        height, width = module.height, module.width
    else:
        height = width = module.grid
    return full_plane(module.spectrum(height, width).abs().mean((-2, -1)), width)


def full_plane(half: Tensor, width: int) -> Tensor:
    """Completes a magnitude, equal at mirrored frequencies, from its half plane.

    Args:
        half: (H, V), zero frequency first.
        width: W.

    Returns:
        (H, W), zero frequency at (H // 2, W // 2).
    """
    mirrored = torch.roll(half.flip(0), 1, 0)  # row i to H - i, row 0 stays
    right = mirrored[:, 1 : (width + 1) // 2].flip(1)  # columns -1, -2, ... without Nyquist
    return torch.fft.fftshift(torch.cat([half, right], dim=1))
