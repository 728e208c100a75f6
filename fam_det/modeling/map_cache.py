"""The teacher's feature maps on disk, so that an image that comes again is not computed again."""

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
    """Maps by the content of an image and the size that it is padded to.

    So images of one size that are at most flipped are computed twice in a training, whatever its
    length; crops and colours that are drawn again each time never come again, and fill the space
    in vain. Once it is full nothing more is kept.

    Args:
        folder: of the files; runs of any teacher may share it.
        max_bytes: of all files together.
        identity: of the teacher, see ``identity_of``.
    """

    def __init__(self, folder: Path, max_bytes: float, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        folder.mkdir(parents=True, exist_ok=True)
        used = sum(file.stat().st_size for file in folder.glob("*.pth"))
        self.max_bytes = max_bytes
        self.space = (max_bytes - used) / comm.get_world_size()
        self.is_full = False  # or cannot be written

    def maps(
        self,
        images: Sequence[Tensor],
        padded_size: tuple[int, int],
        compute: Callable[[Sequence[Tensor]], Maps],
        how: str = "",
    ) -> Maps:
        """Returns maps (N, C, H, W) by level.

        Args:
            images: (3, H, W) each.
            padded_size: (H, W) of the batch.
            compute: returns the maps of some of the images.
            how: they are computed, beside what the teacher is.
        """
        files = [self._file(image, padded_size, how) for image in images]
        found = {file: maps for file in files if (maps := _read(file)) is not None}
        missing = [i for i, file in enumerate(files) if file not in found]
        device = torch.device("cpu")
        if missing:
            computed = compute([images[i] for i in missing])
            device = next(iter(computed.values())).device
            for k, i in enumerate(missing):
                found[files[i]] = {level: x[k] for level, x in computed.items()}
                self._write(files[i], found[files[i]])
            if len(missing) == len(files):
                return computed
        levels = found[files[0]]
        return {
            level: torch.stack([found[file][level].to(device) for file in files])
            for level in levels
        }

    def _file(self, image: Tensor, padded_size: tuple[int, int], how: str) -> Path:
        digest = hashlib.blake2b(digest_size=16)
        for text in (self.identity, how, image.dtype, image.shape, padded_size):
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
        except (OSError, RuntimeError) as error:  # PyTorch's own, of a full disk
            temporary.unlink(missing_ok=True)
            self.is_full = True
            logger.warning(
                "MODEL.TEACHER.CACHE: %s: %s; the rest is computed", self.folder, one_line(error)
            )


def _read(file: Path) -> Maps | None:
    try:
        maps: Maps = torch.load(file, weights_only=True)
        return maps
    except Exception:  # not there, or cut short; PyTorch raises errors of many types
        return None


def identity_of(network: nn.Module, *options: object) -> str:
    """Returns a text that differs for networks of other layers, weights or options."""
    digest = hashlib.blake2b(f"{network}{options}".encode(), digest_size=16)
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
