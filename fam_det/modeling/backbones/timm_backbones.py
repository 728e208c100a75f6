"""Any timm network that gives feature maps, as a Detectron2 backbone, alone or with FPN."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.modeling.backbones.mobilenet_v2 import (
    STRIDES,
    add_fpn,
    add_retinanet_fpn,
    check_features,
    check_rgb,
)
from fam_det.modeling.backbones.timm_networks import (
    PREFIX,
    check_name,
    create_network,
    pixel_statistics,
)
from fam_det.modeling.backbones.timm_norms import freeze_norms, set_norm

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

logger = logging.getLogger(__name__)

PROBE_SIZE = (64, 96)  # not square, and two cells of stride 32 at least


class TimmBackbone(Backbone):
    """A timm network without its classifier; ``network`` has timm's parameter names.

    Args:
        name: of a timm model, with or without the tag of its weights, such as
            "mobilenetv3_small_100".
        norm: what the network's BatchNorms become: "FrozenBN", "BN" or "SyncBN". Others, such as
            LayerNorm, stay.
        out_features: any of "res2", "res3", "res4", "res5", of stride 4, 8, 16, 32.
        freeze_at: as ``MODEL.BACKBONE.FREEZE_AT``: 1 freezes what the map of stride 2 is computed
            with, 2 what res2 is computed with, ...

    Raises:
        ImportError: timm is not installed.
        ValueError: an unknown name, norm or feature, a network that does not give such maps, or a
            stage that it cannot be frozen at.
    """

    def __init__(
        self,
        *,
        name: str,
        norm: str = "FrozenBN",
        out_features: Sequence[str] = tuple(STRIDES),
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        check_features("MODEL.TIMM.OUT_FEATURES", out_features)
        network = create_network(name)
        self._indices = {x: _index_of(name, network, STRIDES[x]) for x in out_features}
        last = max(self._indices.values())
        if last + 1 < len(network.feature_info.reduction()):
            network = create_network(name, out_indices=tuple(range(last + 1)))
        self.network: Any = set_norm(name, network, norm)
        self._channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")  # as Swin's
        channels = network.feature_info.channels()
        self._out_features = list(out_features)
        self._out_feature_strides = {x: STRIDES[x] for x in out_features}
        self._out_feature_channels = {x: channels[i] for x, i in self._indices.items()}
        maps = self._probe(name)
        self._freeze_unused([maps[index] for index in self._indices.values()])
        self._freeze(freeze_at, maps)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps of images (N, 3, H, W), by name: (N, C, H / stride, W / stride) each."""
        maps = self._maps(x)
        return {name: maps[index] for name, index in self._indices.items()}

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Every map of the network, (N, C, H, W) each."""
        maps: list[Tensor] = self.network(x)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else maps

    @torch.enable_grad()
    def _probe(self, name: str) -> list[Tensor]:
        """The maps of a black image, with their graph.

        Raises:
            ValueError: the network cannot take an image of any size, or its maps are not
                (N, C, H / stride, W / stride).
        """
        height, width = PROBE_SIZE
        try:
            maps = self.eval()._maps(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"MODEL.TIMM.NAME: {name!r} does not take an image of {height} x {width} pixels "
                f"({error}), expected a network for images of any size"
            ) from error
        self.train()
        for feature, index in self._indices.items():
            stride = STRIDES[feature]
            expected = (self._out_feature_channels[feature], height // stride, width // stride)
            if tuple(maps[index].shape[1:]) != expected:
                raise ValueError(
                    f"MODEL.TIMM.NAME: {name!r} gives {feature} as {tuple(maps[index].shape[1:])} "
                    f"for {height} x {width} pixels, expected (C, H, W) {expected}"
                )
        return maps

    def _freeze_unused(self, maps: Iterable[Tensor]) -> None:
        """Parameters behind the last map get no gradient, which DDP would wait for."""
        used = _parameters_behind(maps, self.network)
        for parameter in self.network.parameters():
            if not any(parameter is x for x in used):
                parameter.requires_grad_(False)

    def _freeze(self, freeze_at: int, maps: Sequence[Tensor]) -> None:
        """No gradients and FrozenBN in everything that maps up to a stride are computed with."""
        if freeze_at == 0:
            return
        strides = self.network.feature_info.reduction()
        if 2**freeze_at not in strides:
            known = [n for n in range(1, 6) if 2**n in strides]
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT: got {freeze_at}, but the network has no map of stride "
                f"{2**freeze_at}; expected 0 or one of {known}"
            )
        early = [x for x, stride in zip(maps, strides, strict=True) if stride <= 2**freeze_at]
        frozen = _parameters_behind(early, self.network)
        for parameter in frozen:
            parameter.requires_grad_(False)
        freeze_norms(self.network, frozen)


@torch.enable_grad()
def _parameters_behind(maps: Iterable[Tensor], network: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that maps are computed with."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    total = torch.stack([x.sum() for x in maps]).sum()
    if not parameters or not total.requires_grad:
        return []
    gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _index_of(name: str, network: Any, stride: int) -> int:
    """Index of the deepest map of a stride."""
    strides = network.feature_info.reduction()
    indices = [index for index, known in enumerate(strides) if known == stride]
    if not indices:
        raise ValueError(
            f"MODEL.TIMM.NAME: {name!r} has maps of stride {strides}, expected one of stride "
            f"{stride} for MODEL.TIMM.OUT_FEATURES"
        )
    return indices[-1]


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm network of ``cfg.MODEL.TIMM``."""
    check_rgb(input_shape, "timm")
    _check_weights(cfg)
    return TimmBackbone(
        name=cfg.MODEL.TIMM.NAME,
        norm=cfg.MODEL.TIMM.NORM,
        out_features=cfg.MODEL.TIMM.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """The timm network with Detectron2's FPN, p2 to p6."""
    return add_fpn(cfg, build_timm_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """The timm network with RetinaNet's FPN, p3 to p7."""
    return add_retinanet_fpn(cfg, build_timm_backbone(cfg, input_shape))


def _check_weights(cfg: CfgNode) -> None:
    """Pretrained weights want their own network, and images as they have seen them.

    Raises:
        ValueError: the weights of another network.
    """
    if not cfg.MODEL.WEIGHTS.startswith(PREFIX):
        return
    weights = cfg.MODEL.WEIGHTS.removeprefix(PREFIX)
    check_name("MODEL.WEIGHTS", weights)
    if weights.partition(".")[0] != cfg.MODEL.TIMM.NAME.partition(".")[0]:
        raise ValueError(
            f"MODEL.WEIGHTS: got {cfg.MODEL.WEIGHTS!r}, expected {PREFIX}{cfg.MODEL.TIMM.NAME}, "
            "the network of MODEL.TIMM.NAME"
        )
    for key, expected in pixel_statistics(weights, cfg.INPUT.FORMAT).items():
        if not torch.allclose(torch.tensor(cfg.MODEL[key]), torch.tensor(expected), atol=0.1):
            logger.warning(
                "MODEL.%s: got %s, but %s was trained with %s in the order %s.",
                *(key, cfg.MODEL[key], weights, expected, cfg.INPUT.FORMAT),
            )
