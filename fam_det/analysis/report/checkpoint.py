"""What is in a run's checkpoint: the weights of the student, and beside them the distiller's."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fam_det.analysis.report.runs import Run

DISTILLER = "distiller."
# Of batch norm, anchor generators, and the contrastive methods' memories.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "memory_student", "memory_teacher")
ANCHORS = "cell_anchors."


class Parameters(NamedTuple):
    """Numbers that are trained."""

    student: int
    distiller: int


def find_checkpoint(run: Run) -> Path | None:
    """The run's final checkpoint, else its last one, else its best one; None before the first."""
    tag = run.folder / "last_checkpoint"
    last = tag.read_text().strip() if tag.exists() else ""
    for name in ("model_final.pth", last, "model_best.pth"):
        file = run.folder / name
        if name and file.is_file():
            return file
    return None


def read_weights(run: Run) -> dict[str, Tensor]:
    """The model's state dict, on the CPU; empty before the first checkpoint.

    Raises:
        ValueError: a file that is no checkpoint; the message names it.
    """
    file = find_checkpoint(run)
    if file is None:
        return {}
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(f"{file}: not a checkpoint that can be read: {reason}") from error
    if not isinstance(loaded, dict) or "model" not in loaded:
        raise ValueError(f"{file}: has no 'model'; expected a checkpoint of a training")
    return dict(loaded["model"])


def count_parameters(weights: Mapping[str, Tensor]) -> Parameters:
    """How much of a state dict is trained, of the student and of the distiller."""
    student = distiller = 0
    for name, tensor in weights.items():
        if is_buffer(name, weights):
            continue
        if name.startswith(DISTILLER):
            distiller += tensor.numel()
        else:
            student += tensor.numel()
    return Parameters(student, distiller)


def is_buffer(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether an entry is not trained. A frozen batch norm is one that counts no batches."""
    module, _, leaf = name.rpartition(".")
    if leaf in BUFFERS or ANCHORS in name:
        return True
    frozen = f"{module}.running_mean" in weights and f"{module}.num_batches_tracked" not in weights
    return frozen and leaf in ("weight", "bias")
