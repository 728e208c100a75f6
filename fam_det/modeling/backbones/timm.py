"""Any timm network with feature maps as a Detectron2 backbone, and its pretrained weights.

``timm://mobilenetv3_small_100`` names pretrained weights in ``MODEL.WEIGHTS``. timm is imported
only when a network is built: that takes seconds.
"""

import logging
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fam_det.core.checks import check_choice
from fam_det.modeling.backbones.fpn import STRIDES, check_features, check_rgb, register_with_fpn
from fam_det.modeling.backbones.pretrained_weights import PretrainedHandler

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

PREFIX = "timm://"
NORMS = ("FrozenBN", "BN", "SyncBN")
PROBE_SIZE = (64, 96)  # not square, and two cells of stride 32 at least


class TimmBackbone(Backbone):
    """A timm network without its classifier; ``network`` has timm's parameter names.

    Args:
        name: of a timm model, with or without the tag of its weights, such as
            "mobilenetv3_small_100".
        norm: replaces the network's BatchNorms: "FrozenBN", "BN" or "SyncBN". Other normalisations,
            such as LayerNorm, stay.
        out_features: any of "res2", "res3", "res4", "res5", of stride 4, 8, 16, 32.
        freeze_at: as ``MODEL.BACKBONE.FREEZE_AT``: 1 freezes all layers before the map of stride 2,
            2 those before res2, ...

    Raises:
        ImportError: timm is not installed.
        ValueError: an unknown name, norm or feature, a network without such maps, or a stage that
            it cannot be frozen at.
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
        # DDP would wait for the gradients of parameters that no map depends on.
        used = _parameters_behind([maps[i] for i in self._indices.values()], self.network)
        for parameter in self.network.parameters():
            if parameter not in used:
                parameter.requires_grad_(False)
        self._freeze(freeze_at, maps)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) by name: (N, C, H / stride, W / stride) each."""
        maps = self._maps(x)
        return {name: maps[index] for name, index in self._indices.items()}

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Returns every map of the network, (N, C, H, W) each."""
        maps: list[Tensor] = self.network(x)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else maps

    @torch.enable_grad()
    def _probe(self, name: str) -> list[Tensor]:
        """Returns the maps of a black image, with their graph, and checks their shapes."""
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
            shape, stride = tuple(maps[index].shape[1:]), STRIDES[feature]
            expected = (self._out_feature_channels[feature], height // stride, width // stride)
            if shape != expected:
                raise ValueError(
                    f"MODEL.TIMM.NAME: {name!r} gives {feature} as {shape} for {height} x {width} "
                    f"pixels, expected (C, H, W) {expected}"
                )
        return maps

    def _freeze(self, freeze_at: int, maps: Sequence[Tensor]) -> None:
        """Freezes the parameters and BatchNorms before the map of stride ``2**freeze_at``."""
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


@register_with_fpn
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Builds the timm network of ``cfg.MODEL.TIMM``."""
    check_rgb(input_shape, "timm")
    if cfg.MODEL.WEIGHTS.startswith(PREFIX):
        _check_weights(cfg)
    return TimmBackbone(
        name=cfg.MODEL.TIMM.NAME,
        norm=cfg.MODEL.TIMM.NORM,
        out_features=cfg.MODEL.TIMM.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


def _check_weights(cfg: CfgNode) -> None:
    """Checks the name of pretrained weights, and warns if ``INPUT`` normalises images otherwise."""
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


def import_timm() -> ModuleType:
    """Imports timm, or raises an ImportError that says how to install it."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ImportError("timm is missing: pip install timm") from error
    return timm


def check_name(key: str, name: str) -> None:
    """Raises a ValueError that names the key for a model, or a tag of one, that timm lacks."""
    timm = import_timm()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=5)
        raise ValueError(
            f"{key}: got {name!r}, expected a name in timm.list_models(); close ones: {close}"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"{key}: got {name!r}, expected {architecture} with one of the tags {tags}"
        )


def create_network(name: str, **options: Any) -> Any:
    """Builds a timm network that returns a list of maps, with options of ``create_model``."""
    check_name("MODEL.TIMM.NAME", name)
    if name.startswith("swin"):  # it takes any size, but by default insists on that of ImageNet
        options["strict_img_size"] = False
    try:
        return import_timm().create_model(name, features_only=True, **options)
    except (NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.TIMM.NAME: got {name!r}, which gives no feature maps ({error}), expected a "
            "network that timm can build with features_only=True"
        ) from error


def pixel_statistics(name: str, channel_order: str) -> dict[str, list[float]]:
    """Returns ``PIXEL_MEAN`` and ``PIXEL_STD`` of a network's weights, for pixels of 0 to 255.

    The channel order is "RGB", in which timm trains, or "BGR".
    """
    known = import_timm().get_pretrained_cfg(name)
    order = -1 if channel_order == "BGR" else 1
    return {
        f"PIXEL_{key}": [round(255 * x, 3) for x in values][::order]
        for key, values in (("MEAN", known.mean), ("STD", known.std))
    }


def _index_of(name: str, network: Any, stride: int) -> int:
    strides = network.feature_info.reduction()
    if stride not in strides:
        raise ValueError(
            f"MODEL.TIMM.NAME: {name!r} has maps of stride {strides}, expected one of stride "
            f"{stride} for MODEL.TIMM.OUT_FEATURES"
        )
    return max(index for index, known in enumerate(strides) if known == stride)


@torch.enable_grad()
def _parameters_behind(maps: Sequence[Tensor], network: nn.Module) -> set[nn.Parameter]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    total = torch.stack([x.sum() for x in maps]).sum()
    if not parameters or not total.requires_grad:
        return set()
    gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return {p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def set_norm(name: str, network: nn.Module, norm: str) -> nn.Module:
    """Replaces every BatchNorm of a timm network; the state-dict keys stay the same."""
    check_choice("MODEL.TIMM.NORM", norm, NORMS)
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        logger.warning("MODEL.TIMM.NORM: %s has no BatchNorm, %r changes nothing.", name, norm)
    if norm == "SyncBN":
        synchronised: nn.Module = import_timm().layers.convert_sync_batchnorm(network)
        return synchronised
    if norm == "FrozenBN":
        freeze_norms(network, set(network.parameters()))
    return network


def freeze_norms(network: nn.Module, parameters: Collection[nn.Parameter]) -> None:
    """Replaces the BatchNorms whose weight is one of these parameters by FrozenBN."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if not isinstance(child, _BatchNorm) or child.weight not in parameters:
                continue
            has_activation = hasattr(child, "act")
            frozen = FrozenBatchNormAct2d if has_activation else FrozenBatchNorm2d
            new = frozen(child.num_features, child.eps)
            new.load_state_dict(dict(child.state_dict()), strict=False)
            if has_activation:
                new.drop, new.act = child.drop, child.act
            parent.add_module(name, new)


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """FrozenBN with the activation that timm's BatchNormAct2d includes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises and activates maps (N, C, H, W)."""
        return self.act(self.drop(super().forward(x)))


def load_timm(name: str) -> dict[str, Tensor]:
    """Returns the pretrained weights of ``NAME`` or ``NAME.TAG`` as ``TimmBackbone`` names them."""
    check_name("MODEL.WEIGHTS", name)
    timm = import_timm()
    if not timm.is_model_pretrained(name):
        raise ValueError(f"MODEL.WEIGHTS: got {PREFIX}{name}, for which timm has no weights")
    try:
        network: Any = timm.create_model(name, features_only=True, pretrained=True)
    except OSError as error:  # every error of a connection, and of a cache without the file
        reason = str(error).splitlines()[0]
        raise OSError(
            f"{PREFIX}{name}: cannot download ({reason}); on a machine without network set HF_HOME "
            f"to a copy of that folder from one that ran timm.create_model({name!r}, "
            "pretrained=True)"
        ) from error
    return {f"network.{key}": value for key, value in network.state_dict().items()}


PathManager.register_handler(PretrainedHandler("timm", load_timm), allow_override=True)
