"""Caches the teacher's feature maps on disk, so that an image is not computed twice."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fam_det.files import one_line

from detectron2.utils import comm

Maps = dict[str, Tensor]
logger = logging.getLogger(__name__)


class MapCache:
    """Feature maps, keyed by the content of an image and the size that it is padded to.

    With a flip as the only augmentation each image is computed twice in a whole training. Random
    crops and colours never recur: they fill the cache and are never read. A full cache stores
    nothing more.

    Args:
        folder: of the files; runs of any teacher may share it.
        max_bytes: of all files together.
        teacher_key: the teacher's ``fingerprint``.
    """

    def __init__(self, folder: Path, max_bytes: float, teacher_key: str) -> None:
        self.folder = folder
        self.teacher_key = teacher_key
        folder.mkdir(parents=True, exist_ok=True)
        used = sum(file.stat().st_size for file in folder.glob("*.pth"))
        self.max_bytes = max_bytes
        self.space = (max_bytes - used) / comm.get_world_size()
        self.is_full = False  # or not writable

    def maps(
        self,
        images: Sequence[Tensor],
        padded_size: tuple[int, int],
        compute: Callable[[Sequence[Tensor]], Maps],
        options: str = "",
    ) -> Maps:
        """Returns maps (N, C, H, W) by level.

        Args:
            images: (3, H, W) each.
            padded_size: (H, W) of the batch.
            compute: returns the maps of some of the images.
            options: of ``compute``, part of the key.
        """
        files = [self._file(image, padded_size, options) for image in images]
        cached = {file: maps for file in files if (maps := _read(file)) is not None}
        missing = [i for i, file in enumerate(files) if file not in cached]
        device = torch.device("cpu")
        if missing:
            computed = compute([images[i] for i in missing])
            device = next(iter(computed.values())).device
            for k, i in enumerate(missing):
                cached[files[i]] = {level: x[k] for level, x in computed.items()}
                self._write(files[i], cached[files[i]])
            if len(missing) == len(files):
                return computed
        return {
            level: torch.stack([cached[file][level].to(device) for file in files])
            for level in cached[files[0]]
        }

    def _file(self, image: Tensor, padded_size: tuple[int, int], options: str) -> Path:
        digest = hashlib.blake2b(digest_size=16)
        for text in (self.teacher_key, options, image.dtype, image.shape, padded_size):
            digest.update(f"{text};".encode())
        digest.update(_bytes(image))
        return self.folder / f"{digest.hexdigest()}.pth"

    def _write(self, file: Path, maps: Maps) -> None:
        self.space -= sum(x.numel() * x.element_size() for x in maps.values())
        if self.is_full:
            return
        temporary = file.with_suffix(f".{os.getpid()}")
        try:
            if self.space < 0:
                raise OSError(f"is full ({self.max_bytes / 1e9:g} GB)")
            torch.save({level: x.cpu().clone() for level, x in maps.items()}, temporary)
            temporary.replace(file)
        except (OSError, RuntimeError) as error:  # PyTorch raises RuntimeError for a full disk
            temporary.unlink(missing_ok=True)
            self.is_full = True
            logger.warning(
                "MODEL.TEACHER.CACHE: %s: %s; no more maps are cached", self.folder, one_line(error)
            )


def _read(file: Path) -> Maps | None:
    try:
        maps: Maps = torch.load(file, weights_only=True)
        return maps
    except Exception:  # missing or truncated; PyTorch raises errors of many types
        return None


def fingerprint(network: nn.Module, *options: object) -> str:
    """Returns a hash of a network's layers, weights and options."""
    digest = hashlib.blake2b(f"{network}{options}".encode(), digest_size=16)
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
