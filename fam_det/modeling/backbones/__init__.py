"""Student backbones, and the pretrained weights that ``MODEL.WEIGHTS`` names."""

from fam_det.modeling.backbones.mobilenet_v2 import MobileNetV2
from fam_det.modeling.backbones.timm import TimmBackbone

__all__ = ["MobileNetV2", "TimmBackbone"]
