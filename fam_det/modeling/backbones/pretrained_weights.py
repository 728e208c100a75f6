"""``torchvision://resnet18``: torchvision's ImageNet weights under Detectron2's names."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import Tensor
from torchvision.models import get_model_weights

from fam_det.files.atomic_write import atomic_write

from detectron2.utils.file_io import PathManager

PREFIX = "torchvision://"
NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v2")


class PretrainedHandler(PathHandler):
    """Resolves ``LIBRARY://NAME`` to a checkpoint file for ``MODEL.WEIGHTS``.

    The file, whose name ends in the weights' ``version``, is written once to iopath's cache folder.
    Its keys have no prefix: Detectron2's matching heuristics find the backbone in the model.
    """

    def __init__(
        self, library: str, load: Callable[[str], dict[str, Tensor]], version: str = ""
    ) -> None:
        super().__init__()
        self.library = library
        self.load = load
        self.version = version

    def _get_supported_prefixes(self) -> list[str]:
        return [f"{self.library}://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(f"{self.library}://")
        target = Path(get_cache_dir()) / self.library / f"{name}{self.version}.pth"
        if force or not target.is_file():
            content = {"model": self.load(name), "__author__": self.library}
            with atomic_write(target) as temporary:
                torch.save({**content, "matching_heuristics": True}, temporary)
        return str(target)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return Path(self._get_local_path(path)).open(mode, buffering)


def load_torchvision(name: str) -> dict[str, Tensor]:
    """Returns the ImageNet weights of one of ``NETWORKS`` under Detectron2's names."""
    if name not in NETWORKS:
        raise ValueError(
            f"MODEL.WEIGHTS: got {PREFIX + name!r}, expected {PREFIX} and one of {NETWORKS}"
        )
    return convert_names(download(name))


def download(name: str) -> dict[str, Tensor]:
    """Returns torchvision's own state dict, checked against the hash in its file's name."""
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
    """Returns a ResNet's weights under Detectron2's names, without the classifier.

    A MobileNetV2 keeps its names; its last convolution, which no detector uses, is left out too.
    """
    if "conv1.weight" not in state_dict:
        unused = ("classifier.", "features.18.")
        return {k: v for k, v in state_dict.items() if not k.startswith(unused)}
    return {_resnet_name(k): v for k, v in state_dict.items() if not k.startswith("fc.")}


def _resnet_name(name: str) -> str:
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


PathManager.register_handler(
    PretrainedHandler("torchvision", load_torchvision, "-imagenet1k-v1"), allow_override=True
)
