"""The distillers of FAM-KD: the knowledge review, and layer to layer."""

from torch import nn

from fam_det.config import fam_options
from fam_det.core import KnowledgeReview, LayerToLayer
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, FeatureDistiller

from detectron2.config import CfgNode


@DISTILLER_REGISTRY.register()
class KnowledgeReviewDistiller(FeatureDistiller):
    """FAM-KD, FAM + ReviewKD and ReviewKD, by ``FUSION`` and ``TRANSFORM``."""

    reads = ("FUSION", "MID_CHANNELS", "TRANSFORM", "RELU", "NORM", "LOSS", "FAM")

    @classmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """Returns a review over all levels."""
        return KnowledgeReview(
            student_channels,
            distiller.MID_CHANNELS,
            teacher_channels,
            fusion=distiller.FUSION,
            transform=distiller.TRANSFORM,
            relu=distiller.RELU,
            fam=fam_options(distiller),
        )


@DISTILLER_REGISTRY.register()
class LayerToLayerDistiller(FeatureDistiller):
    """One transform a level, without a review."""

    reads = ("TRANSFORM", "RELU", "NORM", "LOSS", "FAM")

    @classmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """Returns a transform for each level."""
        return LayerToLayer(
            student_channels,
            teacher_channels,
            transform=distiller.TRANSFORM,
            relu=distiller.RELU,
            fam=fam_options(distiller),
        )
