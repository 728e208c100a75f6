"""Detectron2's checkpointer with atomic writes, and without running code from files."""

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from iopath.common.file_io import get_cache_dir

from fam_det.files.atomic_write import atomic_write, atomic_write_text, remove_leftovers
from fam_det.files.checkpoint_file import check_weights, is_whole, read_pickle, read_torch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from detectron2.utils.file_io import Detectron2Handler

BEST = "model_best"  # Detectron2's name for what its BestCheckpointer writes
NUMBERED = f"model_{'[0-9]' * 7}.pth"  # by iteration; no copy that a user has made
logger = logging.getLogger(__name__)
_COUNTER = "num_batches_tracked"
# Buffers that PyTorch's and Detectron2's norms initialise if a checkpoint lacks them.
_OPTIONAL_BUFFERS = (_COUNTER, "running_mean", "running_var")


class WeightsMismatchError(ValueError):
    """Weights of another model."""


class SafeCheckpointer(DetectionCheckpointer):
    """Reads weights without running code, and writes checkpoints atomically.

    A ``.pkl`` of the model zoo may hold arrays and plain containers, a ``.pth`` whatever PyTorch's
    ``weights_only`` allows. A new checkpoint is read back before it replaces the last one. A
    ValueError of one line names a file that is damaged, missing or would run code, that has no
    weight of the model, or that lacks a needed one.

    A checkpoint must have the weights of the parts in ``needed``, with the wildcards of
    ``fnmatch``; others may be missing, such as heads for other classes. Resuming needs all.
    """

    def __init__(
        self, model: Any, save_dir: str = "", *, needed: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(model, save_dir, **options)
        self.needed = needed
        if save_dir and self.save_to_disk:
            for pattern in ("*.pth", "last_checkpoint"):
                remove_leftovers(Path(save_dir), pattern)

    def save(self, name: str, **extra: Any) -> None:
        """Writes ``name.pth``, reads it back, and then tags it as the last checkpoint.

        ``model_best``, which may be many iterations old, is not tagged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        file = Path(self.save_dir) / f"{name}.pth"
        data = {"model": self.model.state_dict()}
        data |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        logger.info("Saving checkpoint to %s", file)
        with atomic_write(file) as temporary:
            try:
                torch.save(data | extra, temporary)
                problem = "" if is_whole(temporary) else "it does not read back"
            except RuntimeError as error:  # PyTorch's error for a full disk
                problem = str(error).splitlines()[0]
            if problem:
                raise OSError(
                    f"{file}: could not be written ({problem}); is the disk full? What was there "
                    "before is kept"
                )
        if name != BEST:
            self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name of the checkpoint that a run resumes from."""
        atomic_write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def resume_or_load(self, path: str | None, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a run whose last checkpoint is damaged falls back to the one before."""
        found = comm.all_gather(resume and self.has_checkpoint())
        if len(set(found)) > 1:
            raise ValueError(
                f"{self.save_dir}: {sum(found)} of {len(found)} processes find a checkpoint there; "
                "give all machines one shared folder"
            )
        if found[0]:
            self.needed = ["*"]
            return self.load(str(self._last_undamaged()))
        return self.load(path, checkpointables=[])

    def load(self, path: str | None, *args: Any, **options: Any) -> dict[str, Any]:
        """As Detectron2's; None and "none" mean ""."""
        path = "" if path in (None, "none") else path
        if path.startswith(("http://", "ftp://")):
            raise ValueError(f"{path}: refused, the connection is not encrypted; expected https")
        if self.needed and not path:
            raise ValueError("MODEL.WEIGHTS: got '', expected a checkpoint; all would be random")
        try:
            return super().load(path, *args, **options)
        except AssertionError as error:
            if "not found" in str(error):
                raise ValueError(f"{path}: there is no such checkpoint") from error
            raise
        except URLError as error:
            raise ValueError(
                f"{path}: cannot download it ({error.reason}); on a machine without network put "
                f"that file at {_cached(path)}"
            ) from error
        except WeightsMismatchError as error:
            raise ValueError(f"{path}: {error}") from error

    def _load_model(self, checkpoint: Any) -> Any:
        if not hasattr(self.model, "distiller"):  # Detectron2 would list these as unused
            checkpoint["model"] = {
                key: x
                for key, x in checkpoint["model"].items()
                if not str(key).startswith("distiller.")
            }
        incompatible = super()._load_model(checkpoint)
        # A frozen norm has none; Detectron2 would list one per layer as unused.
        incompatible.unexpected_keys[:] = [
            key for key in incompatible.unexpected_keys if not key.endswith(_COUNTER)
        ]
        missing = {key for key, *_ in incompatible.incorrect_shapes} | {*incompatible.missing_keys}
        weights = [key for key in self.model.state_dict() if not key.endswith(_OPTIONAL_BUFFERS)]
        if weights and missing.issuperset(weights):
            raise WeightsMismatchError(
                "has none of the model's weights; is it another model's checkpoint?"
            )
        missing_needed = [
            key
            for key in sorted(missing)
            if not key.endswith(_COUNTER)  # older checkpoints have none
            and any(part == "*" or is_below(key, part) for part in self.needed)
        ]
        if missing_needed:
            raise WeightsMismatchError(
                f"{len(missing_needed)} weights are missing or of another shape, the first is "
                f"{missing_needed[0]}; is it the checkpoint of this config?"
            )
        return incompatible

    def _last_undamaged(self) -> Path:
        last = Path(self.get_checkpoint_file())
        older = [x for x in Path(self.save_dir).glob(NUMBERED) if x.name < last.name]
        for file in [last, *sorted(older, reverse=True)]:
            if is_whole(file):
                if file != last:
                    logger.warning("%s is damaged or gone: resuming from %s", last, file.name)
                return file
        raise ValueError(
            f"{last}: damaged or gone, as are all older checkpoints; start the run again"
        )

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            content = _from_zoo(read_pickle(filename))
        else:
            content = read_torch(filename)
            if "model_state" in content:  # written by pycls
                content = {"model": content["model_state"], "matching_heuristics": True}
            content = content if "model" in content else {"model": content}
        check_weights(filename, content["model"])
        return content


def is_below(name: str, part: str) -> bool:
    """Returns whether a parameter or buffer belongs to a part, which may have wildcards."""
    return fnmatchcase(name, f"{part}.*")


def _from_zoo(content: dict[str, Any]) -> dict[str, Any]:
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)  # written by Caffe2 or Detectron
    if isinstance(blobs, dict):
        blobs = {key: x for key, x in blobs.items() if not str(key).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _cached(url: str) -> Path:
    """Returns the file that iopath and ``python -m fam_det.doctor`` look for before a download."""
    prefix = Detectron2Handler.PREFIX
    url = url.replace(prefix, Detectron2Handler.S3_DETECTRON2_PREFIX, 1)
    return Path(get_cache_dir()) / urlsplit(url).path.lstrip("/")
