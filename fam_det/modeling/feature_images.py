"""Feature maps as pictures in Detectron2's event storage, for TensorBoard."""

from collections.abc import Mapping

import torch
from torch import Tensor

from detectron2.utils.events import EventStorage

BRIGHTEST = 0.99  # share of the cells that the grey levels cover
CELL = 4  # pixels a cell of a map


@torch.no_grad()
def put_maps(
    storage: EventStorage, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
) -> None:
    """Put the maps of the batch's first image, student left and teacher right, level by level.

    Args:
        storage: Detectron2's.
        student: (N, C, H, W) by level.
        teacher: (N, C_teacher, H, W) by level; only its levels are shown.
    """
    for level, of_teacher in teacher.items():
        planes = [
            x[0].detach().float().square().mean(0).sqrt() for x in (student[level], of_teacher)
        ]
        storage.put_image(f"distiller/{level}: student, teacher", _grey(torch.cat(planes, dim=1)))


def _grey(plane: Tensor) -> Tensor:
    """(H, W), 0 or more, to a grey picture (3, CELL * H, CELL * W) in [0, 1]."""
    top = plane.flatten().kthvalue(max(1, int(BRIGHTEST * plane.numel()))).values.clamp(min=1e-12)
    shown = (plane / top).clamp(max=1.0)
    return shown.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1).expand(3, -1, -1).cpu()
