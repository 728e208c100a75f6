"""Loads a network's weights from a checkpoint file, without running any code that is in it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fam_det.files.checkpoint_file import check_weights, read_torch

# Old training scripts saved their accuracy as a numpy number; its function has had two homes.
NUMPY_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS: list[Any] = [
    (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]
NAMES_SHOWN = 3


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
    state_dict = read_state_dict(path)
    own = model.state_dict()
    shapes = [
        f"{name} {tuple(state_dict[name].shape)} (expected {tuple(own[name].shape)})"
        for name in own
        if name in state_dict and state_dict[name].shape != own[name].shape
    ]
    differences = {
        "missing": [name for name in own if name not in state_dict],
        "unexpected": [name for name in state_dict if name not in own],
        "wrong shape": shapes,
    }
    found = [f"{kind}: {_first(names)}" for kind, names in differences.items() if names]
    if found:
        differing = "; ".join(found)
        raise ValueError(f"{path}: not the weights of this {type(model).__name__}; {differing}")
    model.load_state_dict(state_dict)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the state dict of a checkpoint, under the network's own names."""
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        checkpoint = read_torch(path)
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    check_weights(path, checkpoint)
    if all(name.startswith("module.") for name in checkpoint):
        checkpoint = {name.removeprefix("module."): value for name, value in checkpoint.items()}
    return {k: v for k, v in checkpoint.items() if not k.startswith("distiller.")}


def _first(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
