"""Methods that compare the student's features with the teacher's: ``MODEL.DISTILLER.NAME``.

FAM-KD and its peers share the levels, the weight and the warm-up of ``MODEL.DISTILLER``. A loss
weight is no property of a method alone: those of the papers are for their own reductions and
schedules.
"""

from fam_det.modeling.distillers.base import (
    DISTILLER_REGISTRY,
    Distiller,
    FeatureDistiller,
    build_distiller,
)
from fam_det.modeling.distillers.dkd import DKDDistiller
from fam_det.modeling.distillers.fam import KnowledgeReviewDistiller, LayerToLayerDistiller
from fam_det.modeling.distillers.feature_peers import (
    CWDDistiller,
    FitNetDistiller,
    FreeKDDistiller,
    PKDDistiller,
)
from fam_det.modeling.distillers.fgfi import FGFIDistiller

__all__ = [
    "DISTILLER_REGISTRY",
    "CWDDistiller",
    "DKDDistiller",
    "Distiller",
    "FGFIDistiller",
    "FeatureDistiller",
    "FitNetDistiller",
    "FreeKDDistiller",
    "KnowledgeReviewDistiller",
    "LayerToLayerDistiller",
    "PKDDistiller",
    "build_distiller",
]
