"""FAM-KD, FAM + ReviewKD, ReviewKD and layer-to-layer FAM: the core's distillers on stage maps."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classification.distillers.base import DISTILLER_REGISTRY, Distiller, FeatureShapes
from classification.distillers.stages import StagePairs, stage_pairs
from classification.models import Features
from fam_det.core import FrequencyAttention, KnowledgeReview, LayerToLayer
from fam_det.core.losses import LOSSES

from detectron2.config import CfgNode, configurable

# The widest map of ReviewKD's review.
MAX_REVIEW_WIDTH = 512


class StageDistiller(Distiller):
    """Transform the student's maps, then compare each stage with the teacher's.

    Args:
        pairs: the stages.
        transform: list of student maps -> list of maps of the teacher's channels and sizes.
        loss: name in ``fam_det.core.losses.LOSSES``.

    Raises:
        ValueError: an unknown loss.
    """

    warmup_epochs = 20.0

    @configurable
    def __init__(self, *, pairs: StagePairs, transform: nn.Module, loss: str) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"LOSS: got {loss!r}, expected one of {list(LOSSES)}")
        self.pairs = pairs
        self.transform = transform
        self.loss = LOSSES[loss]

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER
        pairs = stage_pairs(node, student, teacher)
        transform = cls.build_transform(
            node, pairs.shapes(student, teacher=False), pairs.shapes(teacher, teacher=True)
        )
        return {"pairs": pairs, "transform": transform, "loss": node.LOSS}

    @classmethod
    @abstractmethod
    def build_transform(
        cls,
        node: CfgNode,
        student: Sequence[tuple[int, int, int]],
        teacher: Sequence[tuple[int, int, int]],
    ) -> nn.Module:
        """The transform for a ``MODEL.DISTILLER`` node and the (C, H, W) of each stage."""

    def forward(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted loss of each stage."""
        transformed = self.transform(self.pairs.student_maps(student))
        return {
            name: self.loss(x, y, None)
            for name, x, y in zip(
                self.pairs.names, transformed, self.pairs.teacher_maps(teacher), strict=True
            )
        }

    def metrics(self) -> dict[str, float]:
        """gamma_global and gamma_local (gamma1 and gamma2 of the paper) of every stage."""
        fams = [m for m in self.transform.modules() if isinstance(m, FrequencyAttention)]
        if not fams:
            return {}
        gammas = torch.stack([torch.cat([fam.gamma_global, fam.gamma_local]) for fam in fams])
        metrics = {}
        for name, (for_global, for_local) in zip(self.pairs.names, gammas.tolist(), strict=True):
            metrics[f"gamma_global_{name}"] = for_global
            metrics[f"gamma_local_{name}"] = for_local
        return metrics


@DISTILLER_REGISTRY.register()
class KnowledgeReviewDistiller(StageDistiller):
    """FAM-KD, FAM + ReviewKD and ReviewKD, by ``FUSION`` and ``TRANSFORM``."""

    @classmethod
    def build_transform(
        cls,
        node: CfgNode,
        student: Sequence[tuple[int, int, int]],
        teacher: Sequence[tuple[int, int, int]],
    ) -> nn.Module:
        """A review over all stages."""
        return KnowledgeReview(
            [channels for channels, _, _ in student],
            mid_channels(node, [channels for channels, _, _ in student]),
            [channels for channels, _, _ in teacher],
            sizes=[(height, width) for _, height, width in teacher],
            fusion=node.FUSION,
            **transform_options(node),
        )


@DISTILLER_REGISTRY.register()
class LayerToLayerDistiller(StageDistiller):
    """One transform a stage, without a review."""

    @classmethod
    def build_transform(
        cls,
        node: CfgNode,
        student: Sequence[tuple[int, int, int]],
        teacher: Sequence[tuple[int, int, int]],
    ) -> nn.Module:
        """A transform for each stage."""
        return LayerToLayer(
            [channels for channels, _, _ in student],
            [channels for channels, _, _ in teacher],
            sizes=[(height, width) for _, height, width in teacher],
            **transform_options(node),
        )


def mid_channels(node: CfgNode, student_channels: list[int]) -> list[int]:
    """Width of the fused map of each stage.

    Raises:
        ValueError: another number of widths than of stages.
    """
    stages = len(student_channels)
    chosen = list(node.MID_CHANNELS)
    if len(chosen) not in (0, 1, stages):
        raise ValueError(f"MID_CHANNELS: got {chosen}, expected none, one or {stages} numbers")
    if chosen:
        return chosen * stages if len(chosen) == 1 else chosen
    if node.TRANSFORM == "conv3x3":
        return [min(MAX_REVIEW_WIDTH, student_channels[-1])] * stages
    return student_channels


def transform_options(node: CfgNode) -> dict[str, Any]:
    """Arguments of the core's distillers for a ``MODEL.DISTILLER`` node."""
    return {
        "transform": node.TRANSFORM,
        "relu": node.RELU,
        "branches": node.FAM.BRANCHES,
        "filter": node.FAM.FILTER,
        "grid": node.FAM.GRID,
        "high_pass": node.FAM.HIGH_PASS,
        "cutoff": node.FAM.CUTOFF,
        "order": node.FAM.ORDER,
    }
