"""The distillers of FAM-KD: the knowledge review, and layer to layer."""

from dataclasses import replace

from torch import nn

from fam_det.config import fam_options
from fam_det.core import FAMOptions, KnowledgeReview, LayerToLayer
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, FeatureDistiller
from fam_det.modeling.levels import thin_maps

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
            fam=_options(distiller, student_channels, teacher_channels, distiller.MID_CHANNELS),
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
            fam=_options(distiller, student_channels, teacher_channels),
        )


def _options(
    distiller: CfgNode,
    student_channels: list[int],
    teacher_channels: list[int],
    mid_channels: int | None = None,
) -> FAMOptions:
    """Returns the options of the node.

    For maps that are thinner than the teacher's, ``init="identity"`` becomes ``"paper"`` here:
    ``start_at`` initialises them with the basis once the teacher is loaded.
    """
    options = fam_options(distiller)
    thin = thin_maps(student_channels, teacher_channels)
    if options.init != "identity" or thin is None:
        return options
    width, channels = thin
    if mid_channels not in (None, width):
        raise ValueError(
            f"MID_CHANNELS: got {mid_channels}, expected the student's {width}, so that FAM.INIT "
            f"'identity' can start from a basis of the teacher's {channels} channels"
        )
    return replace(options, init="paper")
