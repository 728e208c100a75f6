"""MobileNetV2, from torchvision, as a Detectron2 backbone, and FPN on any backbone."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

# Last block of each stage in torchvision's ``features``; what follows res5 serves the classifier
# only.
STAGE_ENDS = {"res2": 3, "res3": 6, "res4": 13, "res5": 17}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class MobileNetV2(Backbone):
    """MobileNetV2, Sandler et al., CVPR 2018; torchvision's network and parameter names.

    Args:
        width_mult: multiplier of all channels.
        norm: as ``MODEL.RESNETS.NORM``.
        out_features: any of "res2", "res3", "res4", "res5", of stride 4, 8, 16, 32.
        freeze_at: as ``MODEL.BACKBONE.FREEZE_AT``: 1 freezes the stem, 2 the blocks up to res2 too,
            ...

    Raises:
        ValueError: an unknown feature or a width that is not positive.
    """

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        norm: str = "FrozenBN",
        out_features: Sequence[str] = tuple(STAGE_ENDS),
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        if width_mult <= 0:
            raise ValueError(
                f"MODEL.MOBILENETV2.WIDTH_MULT: got {width_mult}, expected more than 0"
            )
        check_features("MODEL.MOBILENETV2.OUT_FEATURES", out_features)
        last = max(STAGE_ENDS[name] for name in out_features)
        network = torchvision.models.mobilenet_v2(
            width_mult=width_mult, norm_layer=partial(get_norm, norm)
        )
        self.features: nn.Sequential = network.features[: last + 1]
        self._out_features = list(out_features)
        self._out_feature_strides = {name: STRIDES[name] for name in out_features}
        self._out_feature_channels = {
            name: network.features[STAGE_ENDS[name]].out_channels for name in out_features
        }
        self._freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of images (N, 3, H, W), by name: (N, C, H / stride, W / stride) each."""
        names = {STAGE_ENDS[name]: name for name in self._out_features}
        outputs = {}
        for index, block in enumerate(self.features):
            x = block(x)
            if index in names:
                outputs[names[index]] = x
        return outputs

    def _freeze(self, freeze_at: int) -> None:
        """No gradients and FrozenBN in the first ``freeze_at`` stages."""
        last = [-1, 1, *STAGE_ENDS.values()][freeze_at]
        for index in range(min(last + 1, len(self.features))):
            block = self.features[index].requires_grad_(False)
            self.features[index] = FrozenBatchNorm2d.convert_frozen_batchnorm(block)


@BACKBONE_REGISTRY.register()
def build_mobilenet_v2_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> MobileNetV2:
    """MobileNetV2 of ``cfg.MODEL.MOBILENETV2``."""
    check_rgb(input_shape, "MobileNetV2")
    return MobileNetV2(
        width_mult=cfg.MODEL.MOBILENETV2.WIDTH_MULT,
        norm=cfg.MODEL.MOBILENETV2.NORM,
        out_features=cfg.MODEL.MOBILENETV2.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_mobilenet_v2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """MobileNetV2 with Detectron2's FPN, p2 to p6."""
    return add_fpn(cfg, build_mobilenet_v2_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_mobilenet_v2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """MobileNetV2 with RetinaNet's FPN, p3 to p7."""
    return add_retinanet_fpn(cfg, build_mobilenet_v2_backbone(cfg, input_shape))


def add_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module | None = None) -> Any:
    """Detectron2's FPN on a backbone, as ``cfg.MODEL.FPN`` says.

    Args:
        cfg: config.
        bottom_up: the backbone.
        top_block: what makes the levels above the last; by default p6 by max pooling.
    """
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block or LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def add_retinanet_fpn(cfg: CfgNode, bottom_up: Backbone) -> Any:
    """The same with p6 and p7 by convolutions on the last map of the backbone, as RetinaNet's."""
    last = cfg.MODEL.FPN.IN_FEATURES[-1]
    channels = bottom_up.output_shape()[last].channels
    return add_fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, last))


def check_features(key: str, out_features: Sequence[str]) -> None:
    """Raises a ValueError that names the key for anything but some of ``STRIDES``."""
    if not out_features or not set(out_features) <= set(STRIDES):
        raise ValueError(f"{key}: got {list(out_features)}, expected some of {list(STRIDES)}")


def check_rgb(input_shape: ShapeSpec, name: str) -> None:
    """Raises a ValueError for images of other than three channels."""
    if input_shape.channels != 3:
        raise ValueError(
            f"MODEL.PIXEL_MEAN: got {input_shape.channels} channels, expected 3 for {name}"
        )
