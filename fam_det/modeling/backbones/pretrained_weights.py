"""``torchvision://resnet18``: torchvision's ImageNet weights under Detectron2's names."""

import os
import re
from abc import abstractmethod
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import Tensor
from torchvision.models import get_model_weights

from detectron2.utils.file_io import PathManager

PREFIX = "torchvision://"
NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2")


class ImageNetHandler(PathHandler):
    """Resolves a prefix and a network's name to a checkpoint file for ``MODEL.WEIGHTS``.

    The file is made once and kept in iopath's cache folder. Its names have no prefix: Detectron2
    matches them to the backbone, wherever that is in the model.
    """

    prefix = ""

    @abstractmethod
    def check(self, name: str) -> None:
        """Raises a ValueError for an unknown network."""

    @abstractmethod
    def weights(self, name: str) -> dict[str, Tensor]:
        """The network's weights under the backbone's names."""

    def file_name(self, name: str) -> str:
        """Of the checkpoint in the cache."""
        return f"{name}.pth"

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name, library = path.removeprefix(self.prefix), self.prefix.partition(":")[0]
        self.check(name)
        target = Path(get_cache_dir()) / library / self.file_name(name)
        if force or not target.is_file():
            save_checkpoint(self.weights(name), target, author=library)
        return str(target)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return Path(self._get_local_path(path)).open(mode, buffering)


class TorchvisionHandler(ImageNetHandler):
    """Resolves ``torchvision://NAME``."""

    prefix = PREFIX

    def check(self, name: str) -> None:
        """Raises a ValueError for a network that is not in ``NETWORKS``."""
        if name not in NETWORKS:
            raise ValueError(
                f"MODEL.WEIGHTS: got {PREFIX + name!r}, expected {PREFIX} and one of {NETWORKS}"
            )

    def weights(self, name: str) -> dict[str, Tensor]:
        """ImageNet weights under Detectron2's names."""
        return convert_names(download(name))

    def file_name(self, name: str) -> str:
        """Of the checkpoint in the cache, with the version of the weights."""
        return f"{name}-imagenet1k-v1.pth"


def download(name: str) -> dict[str, Tensor]:
    """The ImageNet weights of torchvision, checked against the hash in their name.

    Raises:
        OSError: no network and not in PyTorch's cache.
    """
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        state_dict: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except URLError as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise OSError(
            f"{PREFIX}{name}: cannot download {weights.url} ({error.reason}); on a machine without "
            f"network put that file at {cache}"
        ) from error
    return state_dict


def convert_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of Detectron2's ResNet for a torchvision ResNet; the classifier is left out.

    A MobileNetV2 keeps its names, and loses the last convolution too, which no detector uses.
    """
    if "conv1.weight" not in state_dict:
        unused = ("classifier.", "features.18.")
        return {k: v for k, v in state_dict.items() if not k.startswith(unused)}
    return {
        _resnet_name(name): value
        for name, value in state_dict.items()
        if not name.startswith("fc.")
    }


def _resnet_name(name: str) -> str:
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def save_checkpoint(model: dict[str, Tensor], target: Path, author: str) -> None:
    """Write a checkpoint whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    torch.save({"model": model, "__author__": author, "matching_heuristics": True}, part)
    part.replace(target)


PathManager.register_handler(TorchvisionHandler(), allow_override=True)
