"""Checkpoint files: tensors, arrays and plain containers come out of them, and nothing runs."""

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fam_det.files.array_pickle import ArrayUnpickler

UNREADABLE = (
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    UnicodeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    SystemError,  # of NumPy
    zipfile.BadZipFile,
)


def read_pickle(file: str | Path) -> dict[str, Any]:
    """The content of a ``.pkl`` of Detectron2's model zoo.

    Raises:
        ValueError: a file that is damaged or would call anything; one line that names it.
    """
    try:
        with Path(file).open("rb") as stream:
            content = ArrayUnpickler(stream, encoding="latin1").load()
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    return _expect_dict(file, content)


def read_torch(file: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of PyTorch, on the CPU.

    Raises:
        ValueError: a file that is damaged or would call anything; one line that names it.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    return _expect_dict(file, content)


def check_weights(file: str | Path, weights: Any) -> None:
    """Raise a ValueError that names the file unless it is tensors or arrays of numbers by name."""
    if not isinstance(weights, dict) or len(weights) == 0:
        found = "nothing" if isinstance(weights, dict) else type(weights).__name__
        raise ValueError(f"{file}: holds {found} for a model, expected its weights by name")
    for name, value in weights.items():
        is_numbers = isinstance(value, torch.Tensor) or (
            isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        )
        if not isinstance(name, str) or not is_numbers:
            raise ValueError(
                f"{file}: holds a {type(value).__name__} for {str(name)[:80]!r}, expected weights"
            )


def is_whole(file: str | Path) -> bool:
    """Whether every part of a checkpoint of PyTorch has the checksum it was written with."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False


def _expect_dict(file: str | Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, expected a checkpoint")
    return content


def _unreadable(file: str | Path, error: BaseException) -> ValueError:
    path = Path(file)
    if not path.is_file():
        return ValueError(f"{file}: there is no such checkpoint")
    if path.stat().st_size == 0:
        return ValueError(f"{file}: is empty, expected a checkpoint")
    lines = [line.strip()[:300] for line in str(error).splitlines() if line.strip()]
    called = [line for line in lines if "GLOBAL" in line or "it would call" in line]
    if called:
        return ValueError(
            f"{file}: refused, holds more than weights ({called[0]}); save its state dict alone"
        )
    if lines and lines[0].startswith("Weights only load failed"):
        lines = ["neither a zip archive nor a pickle of weights"]  # advice to run it anyway
    return ValueError(
        f"{file}: damaged, or not a checkpoint ({lines[0] if lines else type(error).__name__})"
    )
