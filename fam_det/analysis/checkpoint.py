"""Reads checkpoints of runs: parameter counts, and the global filters K of a distiller.

Legend: H, W size of a plane of frequencies, V = W // 2 + 1 columns of the half plane, G grid size.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fam_det.core.filters import BandedFilter, DenseFilter, SeparableFilter
from fam_det.files.checkpoint_file import read_torch
from fam_det.training.filter_images import Filter

DISTILLER = "distiller."
# Of thin students, WCoRD and CRD; then of batch norm, CRD and spectral norm.
MEMORIES = ("basis", "memory_student", "memory_teacher", "memory_v1", "memory_v2")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "params", "_u", "_v", *MEMORIES)
ANCHORS = "cell_anchors."
GAMMA = ".gamma_global"  # every frequency attention module has one


class Parameters(NamedTuple):
    """Counts of trained parameters."""

    student: int
    distiller: int


def find_checkpoint(folder: Path) -> Path | None:
    """Returns a run's last checkpoint, else the final one, else the best; None before the first.

    The final one is not the last if a finished run is being prolonged.
    """
    tag = folder / "last_checkpoint"
    last = tag.read_text().strip() if tag.exists() else ""
    files = [folder / name for name in (last, "model_final.pth", "model_best.pth")]
    return next(filter(Path.is_file, files), None)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Reads the state dict of a run's model onto the CPU; empty before the first checkpoint.

    Raises:
        ValueError: The file is not a checkpoint; the message names it.
    """
    file = find_checkpoint(folder)
    if file is None:
        return {}
    loaded = read_torch(file)
    if "model" not in loaded:
        raise ValueError(f"{file}: has no 'model'; expected a checkpoint of a training")
    return dict(loaded["model"])


def count_parameters(weights: Mapping[str, Tensor]) -> Parameters:
    """Counts the trained parameters of the student and of the distiller in a state dict."""
    trained = {k: x.numel() for k, x in weights.items() if not is_buffer(k, weights)}
    distiller = sum(count for name, count in trained.items() if name.startswith(DISTILLER))
    return Parameters(sum(trained.values()) - distiller, distiller)


def is_buffer(name: str, weights: Mapping[str, Tensor]) -> bool:
    """Returns whether an entry of a state dict is not trained."""
    module, _, leaf = name.rpartition(".")
    if leaf in BUFFERS or ANCHORS in name:
        return True
    # FrozenBN has no num_batches_tracked.
    frozen = f"{module}.running_mean" in weights and f"{module}.num_batches_tracked" not in weights
    return frozen and leaf in ("weight", "bias")


def read_filters(weights: Mapping[str, Tensor], kind: str) -> list[Filter]:
    """Builds the global filters of a distiller from a state dict, shallow to deep.

    ``kind`` is ``MODEL.DISTILLER.FAM.FILTER``: dense and banded filters have the same shapes. Maps
    whose width the shape leaves open are taken to be square.
    """
    modules = [name.removesuffix(GAMMA) for name in weights if name.endswith(GAMMA)]
    return [_read_filter(weights, f"{module}.filter.", kind) for module in modules]


def _read_filter(weights: Mapping[str, Tensor], prefix: str, kind: str) -> Filter:
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    state = {k.removeprefix("dense."): v for k, v in state.items()}  # inside a pooled filter
    module: Filter
    with torch.device("meta"):  # without allocating and drawing initial weights
        if "gain" in state:
            grid, _, c_in, _ = state["gain"].shape
            module = SeparableFilter(c_in, state["mix.weight"].shape[0], grid)
        else:
            rows, columns, c_in, c_out, _ = state["weight"].shape
            # the pooled feature's 1x1 filter is dense under every setting
            if kind == "banded" and rows > 1:
                module = BandedFilter(c_in, c_out, rows)
            else:
                width = rows if rows // 2 + 1 == columns else 2 * (columns - 1)
                module = DenseFilter(c_in, c_out, rows, width)
    module.load_state_dict(state, assign=True)
    return module


def extent(height: int, width: int) -> tuple[float, float, float, float]:
    """Returns the left, right, bottom and top edge of a centred plane in units of Nyquist.

    Each frequency is at the centre of its cell; rows run downwards.
    """
    left, right = (-(width // 2) - 0.5) * 2 / width, ((width + 1) // 2 - 0.5) * 2 / width
    top, bottom = (-(height // 2) - 0.5) * 2 / height, ((height + 1) // 2 - 0.5) * 2 / height
    return left, right, bottom, top


def high_pass_edge(fam: Mapping[str, Any]) -> tuple[str, float] | None:
    """Returns the contour where the high-pass filter of ``MODEL.DISTILLER.FAM`` is a half.

    It is ``"box"`` and half its side, or ``"circle"`` and its radius, in units of Nyquist; None
    without a contour.
    """
    kind, cutoff = fam["HIGH_PASS"], float(fam["CUTOFF"])
    if kind == "none" or cutoff == 0.0:
        return None
    if kind == "ideal":
        return "box", cutoff
    # 1 - exp(-D^2 / (2 D0^2)) = 1/2 at D = D0 sqrt(2 ln 2); 1 / (1 + (D0 / D)^2n) at D = D0
    return "circle", cutoff * (math.sqrt(2 * math.log(2)) if kind == "gaussian" else 1.0)
