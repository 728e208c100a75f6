"""Builds the networks by name."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from classification.models.base import Features, StagedNetwork
from classification.models.library import (
    TIMM_PREFIX,
    TORCHVISION_PREFIX,
    build_timm,
    build_torchvision,
    library_features,
)
from classification.models.mobilenetv2 import MobileNetV2
from classification.models.resnet import RESNETS
from classification.models.shufflenet import SHUFFLENETS
from classification.models.vgg import VGGS
from classification.models.weights import load_weights

# CIFAR networks; an entry is called as ``entry(num_classes=K)``. Add your own here.
MODEL_REGISTRY: dict[str, Callable[..., StagedNetwork]] = {
    **RESNETS,
    **VGGS,
    "MobileNetV2": MobileNetV2,
    **SHUFFLENETS,
}


def build_model(name: str, num_classes: int = 100, weights: str = "") -> nn.Module:
    """Builds a network.

    Args:
        name: in ``MODEL_REGISTRY``, or ``torchvision/NAME`` (a ResNet), or ``timm/NAME``.
        num_classes: number of logits.
        weights: a checkpoint file; for the libraries' networks also the name of pretrained weights
            (``"IMAGENET1K_V1"``, ``"ra4_e3600_r224_in1k"``). Empty for random weights.

    Raises:
        ImportError: a timm network without timm.
        ValueError: an unknown name or weights, or weights of another network.
    """
    if name.startswith((TORCHVISION_PREFIX, TIMM_PREFIX)):
        return _build_library_model(name, num_classes, weights)
    if name not in MODEL_REGISTRY:
        raise ValueError(
            f"name: got {name!r}, expected one of {sorted(MODEL_REGISTRY)}, "
            f"{TORCHVISION_PREFIX}NAME or {TIMM_PREFIX}NAME"
        )
    model = MODEL_REGISTRY[name](num_classes=num_classes)
    if weights:
        load_weights(model, weights)
    return model


def _build_library_model(name: str, num_classes: int, weights: str) -> nn.Module:
    library, _, library_name = name.partition("/")
    build = build_torchvision if f"{library}/" == TORCHVISION_PREFIX else build_timm
    if not Path(weights).is_file():
        return build(library_name, num_classes, weights)
    model = build(library_name, num_classes, "")
    load_weights(model, weights)
    return model


def stage_features(model: nn.Module, x: Tensor) -> Features:
    """Returns stage maps, pooled feature and logits of images (N, 3, H, W).

    Raises:
        TypeError: a network that :func:`build_model` does not build.
    """
    if isinstance(model, StagedNetwork):
        return model.features(x)
    return library_features(model, x)
