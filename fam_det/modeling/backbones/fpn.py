"""Registers backbones whose maps are called res2 to res5, alone and with an FPN."""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

Builder = Callable[[CfgNode, ShapeSpec], Any]


def register_with_fpn(build: Builder) -> Builder:
    """Registers ``build_NAME_backbone``, and two builders of an FPN on that backbone.

    They are ``build_NAME_fpn_backbone``, with p2 to p6, and ``build_retinanet_NAME_fpn_backbone``,
    with p3 to p7.
    """
    stem = build.__name__.removeprefix("build_").removesuffix("_backbone")

    def build_fpn(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
        return _fpn(cfg, build(cfg, input_shape), LastLevelMaxPool())

    def build_retinanet_fpn(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
        bottom_up = build(cfg, input_shape)
        last = cfg.MODEL.FPN.IN_FEATURES[-1]
        channels = bottom_up.output_shape()[last].channels
        return _fpn(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, last))

    build_fpn.__name__ = f"build_{stem}_fpn_backbone"
    build_retinanet_fpn.__name__ = f"build_retinanet_{stem}_fpn_backbone"
    for builder in (build, build_fpn, build_retinanet_fpn):
        BACKBONE_REGISTRY.register(builder)
    return build


def _fpn(cfg: CfgNode, bottom_up: Backbone, top_block: Any) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def check_features(key: str, out_features: Sequence[str]) -> None:
    """Raises a ValueError that names the key unless all features are keys of ``STRIDES``."""
    if not out_features or not set(out_features) <= set(STRIDES):
        raise ValueError(f"{key}: got {list(out_features)}, expected some of {list(STRIDES)}")


def check_rgb(input_shape: ShapeSpec, name: str) -> None:
    """Raises a ValueError unless images have three channels."""
    if input_shape.channels != 3:
        raise ValueError(
            f"MODEL.PIXEL_MEAN: got {input_shape.channels} channels, expected 3 for {name}"
        )
