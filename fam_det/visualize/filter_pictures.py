"""The filters of a distiller as pictures in Detectron2's event storage, for TensorBoard."""

from typing import cast

import torch
from torch import nn

from fam_det.core import FrequencyAttention
from fam_det.core.filters import GlobalFilter, PooledFilter
from fam_det.report.filters import Filter, magnitude

from detectron2.engine import HookBase

PIXEL = 4  # pixels of the picture a frequency


class FilterPictures(HookBase):
    """Put |K| of every frequency attention module, zero frequency in the middle.

    Args:
        distiller: with such modules; nothing is put for one without.
        period: iterations between pictures.
    """

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
        """Put them every so often, the first time after the first step."""
        if self.trainer.iter % self.period:
            return
        for level, module in self.filters.items():
            plane = magnitude(shown(module))
            plane = (plane / plane.max().clamp(min=1e-12)).cpu()
            picture = plane.repeat_interleave(PIXEL, 0).repeat_interleave(PIXEL, 1)
            self.trainer.storage.put_image(
                f"distiller/filter of {level}", picture.expand(3, -1, -1)
            )


def shown(module: GlobalFilter) -> Filter:
    """The filter whose frequencies are shown: a pooled one's is dense inside."""
    return module.dense if isinstance(module, PooledFilter) else cast(Filter, module)
