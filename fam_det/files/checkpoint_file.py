"""Reads checkpoint files of tensors, arrays and plain containers without running code."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fam_det.files.array_pickle import ArrayUnpickler


def read_pickle(file: str | Path) -> dict[str, Any]:
    """Reads a ``.pkl`` of Detectron2's model zoo; a ValueError names a damaged file."""

    def unpickle(path: str | Path) -> Any:
        with Path(path).open("rb") as stream:
            return ArrayUnpickler(stream, encoding="latin1").load()

    return _read(file, unpickle)


def read_torch(file: str | Path) -> dict[str, Any]:
    """Reads a PyTorch checkpoint onto the CPU; a ValueError names a damaged file."""
    return _read(file, lambda path: torch.load(path, map_location="cpu", weights_only=True))


def check_weights(file: str | Path, weights: Any) -> None:
    """Raises a ValueError that names the file unless it is tensors or numeric arrays by name."""
    if not isinstance(weights, dict) or not weights:
        kind = "nothing" if isinstance(weights, dict) else type(weights).__name__
        raise ValueError(f"{file}: holds {kind} for a model, expected its weights by name")
    for name, value in weights.items():
        is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        if not isinstance(name, str) or not (is_array or isinstance(value, torch.Tensor)):
            raise ValueError(
                f"{file}: holds a {type(value).__name__} for {str(name)[:80]!r}, expected weights"
            )


def is_whole(file: str | Path) -> bool:
    """Returns whether the checksums of all parts of a PyTorch checkpoint are right."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive raises errors of many types
        return False


def _read(file: str | Path, load: Callable[[str | Path], Any]) -> dict[str, Any]:
    try:
        content = load(file)
    except Exception as error:  # a damaged file raises errors of many types
        raise ValueError(f"{file}: {_reason(Path(file), error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, expected a checkpoint")
    return content


def _reason(file: Path, error: Exception) -> str:
    if not file.is_file():
        return "there is no such checkpoint"
    if file.stat().st_size == 0:
        return "is empty, expected a checkpoint"
    lines = [line.strip()[:300] for line in str(error).splitlines() if line.strip()]
    for line in lines:
        if "GLOBAL" in line or "it would call" in line:
            return f"refused, holds more than weights ({line}); save its state dict alone"
    if lines and lines[0].startswith("Weights only load failed"):
        # PyTorch's text then advises to load the file unsafely.
        lines = ["neither a zip archive nor a pickle of weights"]
    return f"damaged, or not a checkpoint ({lines[0] if lines else type(error).__name__})"
