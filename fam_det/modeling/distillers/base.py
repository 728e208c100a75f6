"""Distillers: what compares the student's feature maps with the teacher's."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.core import FrequencyAttention
from fam_det.core.losses import ValidSizes
from fam_det.core.named_losses import LOSSES
from fam_det.modeling.sync_batch_norm import set_norm

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.utils.events import get_event_storage
from detectron2.utils.registry import Registry

DISTILLER_REGISTRY = Registry("DISTILLER")
DISTILLER_REGISTRY.__doc__ = """
Registry of distillers: ``Distiller`` built from ``(cfg, levels, student_shape, teacher_shape)``.

``levels`` are the names of the feature maps, shallow to deep; the shapes map them to ``ShapeSpec``.
A call with the student's maps, the teacher's maps (dictionaries by level), the valid sizes of each
level, and what ``watch`` saw, as keywords, gives a dictionary of unweighted scalar losses by name.
"""

Shapes = Mapping[str, ShapeSpec]
Loss = Callable[[Tensor, Tensor, ValidSizes | None], Tensor]


class Distiller(nn.Module):
    """What every distiller has; a method on feature maps alone is a ``FeatureDistiller``."""

    # Parts of the teacher that it needs with their weights, besides the backbone.
    teacher_parts: Sequence[str] = ()

    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raises a ValueError for detectors that the method cannot be used with."""

    def watch(
        self, student: nn.Module, teacher: nn.Module, batched_inputs: Sequence[dict[str, Any]]
    ) -> AbstractContextManager[dict[str, Any]]:
        """A context around the student's forward pass, for what a method needs besides the maps.

        What its dictionary holds afterwards are further keywords of ``forward``.
        """
        return nullcontext({})


class FeatureDistiller(Distiller):
    """Transform the student's maps, then compare each level with the teacher's.

    A subclass says in ``build_transform`` what the transform is, and in ``build_loss`` what the
    loss is where ``MODEL.DISTILLER.LOSS`` does not choose it.

    Args:
        levels: names of the feature maps, shallow to deep.
        transform: list of student maps -> list of maps of the teacher's channels.
        loss: of two maps and the valid sizes of the images, such as those of ``LOSSES``.
    """

    @configurable
    def __init__(self, *, levels: Sequence[str], transform: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.levels = list(levels)
        self.transform = transform
        self.loss = loss

    @classmethod
    def from_config(
        cls, cfg: CfgNode, levels: Sequence[str], student: Shapes, teacher: Shapes
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        student_channels, teacher_channels = (
            [shapes[level].channels for level in levels] for shapes in (student, teacher)
        )
        try:
            transform = cls.build_transform(cfg.MODEL.DISTILLER, student_channels, teacher_channels)
        except ValueError as error:  # the core names its argument; say whose it is
            raise ValueError(f"MODEL.DISTILLER: {error}") from error
        return {
            "levels": levels,
            "transform": transform,
            "loss": cls.build_loss(cfg.MODEL.DISTILLER),
        }

    @classmethod
    def build_loss(cls, distiller: CfgNode) -> Loss:
        """The loss that a ``MODEL.DISTILLER`` node names.

        Raises:
            ValueError: an unknown one.
        """
        if distiller.LOSS not in LOSSES:
            raise ValueError(
                f"MODEL.DISTILLER.LOSS: got {distiller.LOSS!r}, expected one of {list(LOSSES)}"
            )
        return LOSSES[distiller.LOSS]

    @classmethod
    @abstractmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """The transform for a ``MODEL.DISTILLER`` node and the channels of each level."""

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        valid_sizes: Mapping[str, ValidSizes],
    ) -> dict[str, Tensor]:
        """Unweighted loss of each level.

        Args:
            student: maps (N, C, H, W) by level.
            teacher: maps (N, C_teacher, H, W) by level.
            valid_sizes: for each level (h, w) of each image in cells, without the padding.

        Returns:
            Scalars by level.
        """
        self._log_gammas()
        transformed = self.transform([student[level] for level in self.levels])
        return {
            level: self.loss(x, teacher[level], valid_sizes[level])
            for level, x in zip(self.levels, transformed, strict=True)
        }

    def _log_gammas(self) -> None:
        """gamma_global and gamma_local (gamma1 and gamma2 of the paper) of every level."""
        fams = [m for m in self.transform.modules() if isinstance(m, FrequencyAttention)]
        if not fams:
            return
        gammas = torch.stack([torch.cat([fam.gamma_global, fam.gamma_local]) for fam in fams])
        storage = get_event_storage()
        for level, (for_global, for_local) in zip(self.levels, gammas.tolist(), strict=True):
            storage.put_scalar(f"distiller/gamma_global_{level}", for_global)
            storage.put_scalar(f"distiller/gamma_local_{level}", for_local)


def build_distiller(
    cfg: CfgNode, levels: Sequence[str], student: Shapes, teacher: Shapes
) -> Distiller:
    """The distiller that ``MODEL.DISTILLER.NAME`` names, on ``MODEL.DEVICE``.

    Raises:
        ValueError: an unknown name or option; the message names the key.
    """
    name = cfg.MODEL.DISTILLER.NAME
    if name not in DISTILLER_REGISTRY:
        known = sorted(known for known, _ in DISTILLER_REGISTRY)
        raise ValueError(f"MODEL.DISTILLER.NAME: got {name!r}, expected one of {known}")
    distiller: Distiller = DISTILLER_REGISTRY.get(name)(cfg, levels, student, teacher)
    set_norm(distiller, cfg.MODEL.DISTILLER.NORM)
    return distiller.to(cfg.MODEL.DEVICE)
