"""The distilled detector, its distillers and student backbones; importing it registers them."""

from fam_det.modeling.backbones import MobileNetV2, TimmBackbone
from fam_det.modeling.distilled_detector import DistilledDetector
from fam_det.modeling.distillers import DISTILLER_REGISTRY, Distiller, FeatureDistiller
from fam_det.modeling.teacher import FrozenTeacher

__all__ = [
    "DISTILLER_REGISTRY",
    "DistilledDetector",
    "Distiller",
    "FeatureDistiller",
    "FrozenTeacher",
    "MobileNetV2",
    "TimmBackbone",
]
