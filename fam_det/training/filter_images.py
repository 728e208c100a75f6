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
from fam_det.core.kernels.spectrum import full_plane
from fam_det.modeling.metrics import grey_image

from detectron2.engine import HookBase

Filter = DenseFilter | BandedFilter | SeparableFilter
SEPARABLE_SIZE = 32  # side of the image of a separable filter, which takes any map size


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

    def after_step(self) -> None:
        """Draws them every ``period`` iterations, from the first step on."""
        if self.trainer.iter % self.period:
            return
        for level, module in self.filters.items():
            if isinstance(module, PooledFilter):
                module = module.dense
            plane = magnitude(cast(Filter, module))
            image = grey_image(plane, plane.max())
            self.trainer.storage.put_image(f"distiller/filter of {level}", image)


@torch.no_grad()
def magnitude(module: Filter) -> Tensor:
    """Returns |K| averaged over input and output channels, zero frequency at (H // 2, W // 2).

    (H, W) is the size of a dense filter, the grid of a banded one, ``SEPARABLE_SIZE`` otherwise.
    """
    if isinstance(module, SeparableFilter):
        # K = mix * gain: the mean of |K| without forming (H, V, C_in, C_out).
        gains = module.gains(SEPARABLE_SIZE, SEPARABLE_SIZE).abs()  # (C_in, H, V)
        mix = module.mix.weight[:, :, 0, 0].abs().mean(0)  # (C_in,)
        return _centred((gains * mix[:, None, None]).mean(0), SEPARABLE_SIZE)
    if isinstance(module, DenseFilter):
        height, width = module.height, module.width
    else:
        height = width = module.grid
    return _centred(module.spectrum(height, width).abs().mean((-2, -1)), width)


def _centred(half: Tensor, width: int) -> Tensor:
    return torch.fft.fftshift(full_plane(half, width))
