"""What registers with Detectron2: the distilled detector, its distillers, the student backbones."""

from fam_det import detectron2_compat

detectron2_compat.apply()

from fam_det.modeling import peers as _peers  # noqa: E402, F401  only registration
from fam_det.modeling import timm_weights as _timm  # noqa: E402, F401  the same
from fam_det.modeling import torchvision_weights as _weights  # noqa: E402, F401  the same
from fam_det.modeling.backbones import MobileNetV2  # noqa: E402
from fam_det.modeling.distilled_detector import DistilledDetector  # noqa: E402
from fam_det.modeling.distillers import (  # noqa: E402
    DISTILLER_REGISTRY,
    Distiller,
    FeatureDistiller,
)
from fam_det.modeling.teacher import FrozenTeacher  # noqa: E402
from fam_det.modeling.timm_backbones import TimmBackbone  # noqa: E402

__all__ = [
    "DISTILLER_REGISTRY",
    "DistilledDetector",
    "Distiller",
    "FeatureDistiller",
    "FrozenTeacher",
    "MobileNetV2",
    "TimmBackbone",
]
