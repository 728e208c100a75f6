"""Images of a distiller's filters in Detectron2's event storage, for TensorBoard."""

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
SHOWN_SIZE = 32  # frequencies a side of a separable filter, which is defined at any
PIXEL = 4  # pixels of the image a frequency


class FilterImages(HookBase):
    """Stores |K| of a distiller's frequency attention modules, zero frequency in the middle."""

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
        """Stores them every ``period`` iterations, the first time after the first step."""
        if self.trainer.iter % self.period:
            return
        for level, module in self.filters.items():
            # A pooled filter is dense inside.
            shown = module.dense if isinstance(module, PooledFilter) else cast(Filter, module)
            plane = magnitude(shown)
            plane = (plane / plane.max().clamp(min=1e-12)).cpu()
            image = plane.repeat_interleave(PIXEL, 0).repeat_interleave(PIXEL, 1)
            self.trainer.storage.put_image(f"distiller/filter of {level}", image.expand(3, -1, -1))


@torch.no_grad()
def magnitude(module: Filter) -> Tensor:
    """Returns |K| averaged over input and output channels, zero frequency at (H // 2, W // 2).

    (H, W) is a dense filter's own size, or the grid of a banded one, whose cells it consists of.
    """
    if isinstance(module, SeparableFilter):
        # the mean of a product of |gain| by input channel and |mix|, without the whole product
        gains = module.gains(SHOWN_SIZE, SHOWN_SIZE).abs()  # (C_in, H, V)
        mix = module.mix.weight[:, :, 0, 0].abs().mean(0)  # (C_in,)
        return whole_plane((gains * mix[:, None, None]).mean(0), SHOWN_SIZE)
    if isinstance(module, DenseFilter):
        height, width = module.height, module.width
    else:
        height = width = module.grid
    return whole_plane(module.spectrum(height, width).abs().mean((-2, -1)), width)


def whole_plane(half: Tensor, width: int) -> Tensor:
    """Returns the plane (H, W) of a magnitude, the same at mirrored frequencies, from its half.

    In the half (H, V) zero frequency is first, in the plane it is at (H // 2, W // 2).
    """
    mirrored = torch.roll(half.flip(0), 1, 0)  # row i to H - i, row 0 stays
    right = mirrored[:, 1 : (width + 1) // 2].flip(1)  # columns -1, -2, ... without Nyquist
    return torch.fft.fftshift(torch.cat([half, right], dim=1))
