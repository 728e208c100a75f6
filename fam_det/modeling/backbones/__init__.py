"""Student backbones, and the pretrained weights that ``MODEL.WEIGHTS`` names."""

from fam_det.modeling.backbones import pretrained_weights as _pretrained  # noqa: F401  registers
from fam_det.modeling.backbones import timm_weights as _timm  # noqa: F401  registers
from fam_det.modeling.backbones.mobilenet_v2 import MobileNetV2
from fam_det.modeling.backbones.timm_backbones import TimmBackbone

__all__ = ["MobileNetV2", "TimmBackbone"]
