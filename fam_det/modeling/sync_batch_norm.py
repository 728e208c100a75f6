"""BatchNorm of a distiller over all processes, for few images per device."""

import torch
from torch import Tensor, nn

from fam_det.core.checks import check_choice
from fam_det.core.review import BatchNorm

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm

NORMS = ("BN", "SyncBN")


class SyncBatchNorm(NaiveSyncBatchNorm, BatchNorm):
    """Detectron2's synchronised BatchNorm, on CPUs too; in one process the core's BatchNorm.

    As in Detectron2 every process has the same weight. So the statistics are those of all images
    only if the maps have the same padded size in every process.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises maps (N, C, H, W)."""
        if comm.get_world_size() == 1:
            out: Tensor = super().forward(x)
            return out
        # The variance E[x^2] - E[x]^2 is inexact in bfloat16, and may be negative.
        out = super().forward(x.to(torch.promote_types(x.dtype, torch.float32)))
        return out.to(x.dtype)


def set_norm(module: nn.Module, norm: str) -> None:
    """Replaces every BatchNorm of the core below a module; the state-dict keys stay the same."""
    check_choice("MODEL.DISTILLER.NORM", norm, NORMS)
    if norm == "BN":
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is BatchNorm:
                new = SyncBatchNorm(child.num_features, child.eps, child.momentum)
                new.load_state_dict(child.state_dict())
                parent.add_module(name, new)
