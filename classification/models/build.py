"""Builds the networks by name, and loads their weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classification.models.base import Features, StagedNetwork
from classification.models.imagenet import (
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
from fam_det.files.checkpoint_file import check_weights, read_torch

# CIFAR networks; an entry is called as ``entry(num_classes=K)``. Add your own here.
MODEL_REGISTRY: dict[str, Callable[..., StagedNetwork]] = {
    **RESNETS,
    **VGGS,
    "MobileNetV2": MobileNetV2,
    **SHUFFLENETS,
}

# Old training scripts saved their accuracy as a numpy scalar, whose module numpy has moved.
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]
NAMES_SHOWN = 3


def build_model(name: str, num_classes: int = 100, weights: str = "") -> nn.Module:
    """Builds a network.

    Args:
        name: in ``MODEL_REGISTRY``, or ``torchvision/NAME`` (a ResNet or MobileNetV2), or
            ``timm/NAME``.
        num_classes: number of logits.
        weights: a checkpoint file; for the libraries' networks also the name of pretrained weights
            (``"IMAGENET1K_V1"``, ``"ra4_e3600_r224_in1k"``). Empty for random weights.

    Raises:
        ImportError: a timm network without timm.
        ValueError: an unknown name or weights, or weights of another network.
    """
    file = weights  # for the libraries' networks it may be a name
    if name.startswith((TORCHVISION_PREFIX, TIMM_PREFIX)):
        file = weights if Path(weights).is_file() else ""
        build = build_torchvision if name.startswith(TORCHVISION_PREFIX) else build_timm
        model = build(name.partition("/")[2], num_classes, "" if file else weights)
    elif name in MODEL_REGISTRY:
        model = MODEL_REGISTRY[name](num_classes=num_classes)
    else:
        raise ValueError(
            f"name: got {name!r}, expected one of {sorted(MODEL_REGISTRY)}, "
            f"{TORCHVISION_PREFIX}NAME or {TIMM_PREFIX}NAME"
        )
    if file:
        load_weights(model, file)
    return model


def stage_features(model: nn.Module, x: Tensor) -> Features:
    """Returns stage maps, pooled feature and logits of images (N, 3, H, W).

    Raises:
        TypeError: a network that :func:`build_model` does not build.
    """
    if isinstance(model, StagedNetwork):
        return model.features(x)
    return library_features(model, x)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Loads a checkpoint into a network, every name and shape of it.

    Args:
        model: the network.
        path: a file of ``torch.save``: a state dict, or a dictionary that has one under ``model``
            or ``state_dict``. A leading ``module.`` is dropped, and so are the ``distiller.*``
            entries of this project's own runs.

    Raises:
        ValueError: no file, one that holds more than tensors, numbers and containers, or another
            network's; the message names the file and the first names that differ.
    """
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        state_dict = read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
            break
    check_weights(path, state_dict)
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): x for name, x in state_dict.items()}
    state_dict = {k: x for k, x in state_dict.items() if not k.startswith("distiller.")}
    expected = model.state_dict()
    shapes = [
        f"{name} {tuple(state_dict[name].shape)} (expected {tuple(expected[name].shape)})"
        for name in expected
        if name in state_dict and state_dict[name].shape != expected[name].shape
    ]
    differences = {
        "missing": [name for name in expected if name not in state_dict],
        "unexpected": [name for name in state_dict if name not in expected],
        "wrong shape": shapes,
    }
    texts = [f"{kind}: {_first(names)}" for kind, names in differences.items() if names]
    if texts:
        text = "; ".join(texts)
        raise ValueError(f"{path}: not the weights of this {type(model).__name__}; {text}")
    model.load_state_dict(state_dict)


def _first(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
