"""FAM-KD, FAM + ReviewKD, ReviewKD and layer-to-layer FAM on the stages of classifiers."""

from abc import abstractmethod
from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from classification.distillers.base import DISTILLER_REGISTRY, STAGE_KEYS, Distiller, FeatureShapes
from classification.distillers.stages import StagePairs, stage_pairs
from classification.models import Features
from fam_det.config import fam_options
from fam_det.core import KnowledgeReview, LayerToLayer
from fam_det.core.checks import check_choice
from fam_det.core.losses import LOSSES
from fam_det.modeling.metrics import gammas

from detectron2.config import CfgNode, configurable

MAX_REVIEW_WIDTH = 512  # channels of the fused maps in ReviewKD's code


class StageDistiller(Distiller):
    """Transforms the student's maps, then compares each stage with the teacher's.

    Args:
        pairs: the stages.
        transform: list of student maps -> list of maps of the teacher's channels and sizes.
        loss: name in ``fam_det.core.losses.LOSSES``.
    """

    warmup_epochs = 20.0
    reads: Collection[str] = (*STAGE_KEYS, "POOLED", "TRANSFORM", "RELU", "LOSS", "FAM")

    @configurable
    def __init__(self, *, pairs: StagePairs, transform: nn.Module, loss: str) -> None:
        super().__init__()
        check_choice("LOSS", loss, LOSSES)
        self.pairs = pairs
        self.transform = transform
        self.loss = LOSSES[loss]

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Returns the arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER
        pairs = stage_pairs(node, student, teacher, pooled=node.POOLED)
        transform = cls.build_transform(
            node,
            student_channels=[channels for channels, _, _ in pairs.student.shapes],
            teacher_channels=[channels for channels, _, _ in pairs.teacher.shapes],
            sizes=[(height, width) for _, height, width in pairs.teacher.shapes],
            transform=node.TRANSFORM,
            relu=node.RELU,
            fam=fam_options(node),
        )
        return {"pairs": pairs, "transform": transform, "loss": node.LOSS}

    @classmethod
    @abstractmethod
    def build_transform(cls, node: CfgNode, **options: Any) -> nn.Module:
        """Builds the transform for a ``MODEL.DISTILLER`` node and the core's options."""

    def forward(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns the unweighted loss of each stage."""
        transformed = self.transform(self.pairs.student.maps(student))
        teacher_maps = self.pairs.teacher.maps(teacher)
        return {
            name: self.loss(x, y, None)
            for name, x, y in zip(self.pairs.names, transformed, teacher_maps, strict=True)
        }

    def metrics(self) -> dict[str, Tensor]:
        """Returns gamma_global and gamma_local (gamma1 and gamma2 of the paper) of every stage."""
        return gammas(self.transform, self.pairs.names)


@DISTILLER_REGISTRY.register()
class KnowledgeReviewDistiller(StageDistiller):
    """FAM-KD, FAM + ReviewKD and ReviewKD, by ``FUSION`` and ``TRANSFORM``."""

    reads = (*StageDistiller.reads, "FUSION", "MID_CHANNELS")

    @classmethod
    def build_transform(cls, node: CfgNode, **options: Any) -> nn.Module:
        """Builds a review over all stages."""
        widths = mid_channels(node, options["student_channels"])
        return KnowledgeReview(mid_channels=widths, fusion=node.FUSION, **options)


@DISTILLER_REGISTRY.register()
class LayerToLayerDistiller(StageDistiller):
    """One transform per stage, without a review."""

    @classmethod
    def build_transform(cls, node: CfgNode, **options: Any) -> nn.Module:
        """Builds a transform for each stage."""
        return LayerToLayer(**options)


def mid_channels(node: CfgNode, student_channels: list[int]) -> list[int]:
    """Returns the width of the fused map of each stage."""
    stages = len(student_channels)
    widths = list(node.MID_CHANNELS)
    if len(widths) not in (0, 1, stages):
        raise ValueError(f"MID_CHANNELS: got {widths}, expected none, one or {stages} numbers")
    if widths:
        return widths * stages if len(widths) == 1 else widths
    if node.TRANSFORM == "conv3x3":
        return [min(MAX_REVIEW_WIDTH, student_channels[-1])] * stages
    return student_channels
