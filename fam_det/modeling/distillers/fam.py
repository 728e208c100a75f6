"""The distillers of FAM-KD: the knowledge review, and layer to layer."""

from typing import Any

from torch import nn

from fam_det.core import KnowledgeReview, LayerToLayer
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, FeatureDistiller

from detectron2.config import CfgNode


@DISTILLER_REGISTRY.register()
class KnowledgeReviewDistiller(FeatureDistiller):
    """FAM-KD, FAM + ReviewKD and ReviewKD, by ``FUSION`` and ``TRANSFORM``."""

    @classmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """A review over all levels."""
        return KnowledgeReview(
            student_channels,
            distiller.MID_CHANNELS,
            teacher_channels,
            fusion=distiller.FUSION,
            **transform_options(distiller),
        )


@DISTILLER_REGISTRY.register()
class LayerToLayerDistiller(FeatureDistiller):
    """One transform a level, without a review."""

    @classmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """A transform for each level."""
        return LayerToLayer(student_channels, teacher_channels, **transform_options(distiller))


def transform_options(distiller: CfgNode) -> dict[str, Any]:
    """Arguments of the core's distillers for a ``MODEL.DISTILLER`` node."""
    return {
        "transform": distiller.TRANSFORM,
        "relu": distiller.RELU,
        "branches": distiller.FAM.BRANCHES,
        "init": distiller.FAM.INIT,
        "filter": distiller.FAM.FILTER,
        "grid": distiller.FAM.GRID,
        "high_pass": distiller.FAM.HIGH_PASS,
        "cutoff": distiller.FAM.CUTOFF,
        "order": distiller.FAM.ORDER,
    }
