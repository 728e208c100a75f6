"""What the global filters K of a checkpoint let through, by frequency, without building the model.

Legend: H, W size of a plane of frequencies, V = W // 2 + 1 columns of the half plane, G grid size.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fam_det.core.filters import BandedFilter, DenseFilter, SeparableFilter
from fam_det.training.filter_images import Filter

MARK = ".gamma_global"  # every frequency attention module has one


def read_filters(weights: Mapping[str, Tensor], kind: str) -> list[Filter]:
    """The global filters of a distiller in a state dict, shallow to deep.

    Args:
        weights: with ``distiller.*`` keys.
        kind: ``MODEL.DISTILLER.FAM.FILTER``: dense and banded filters are of one shape.
    """
    modules = [name.removesuffix(MARK) for name in weights if name.endswith(MARK)]
    return [read_filter(weights, f"{module}.filter.", kind) for module in modules]


def read_filter(weights: Mapping[str, Tensor], prefix: str, kind: str) -> Filter:
    """One filter, built in the shape of its weights; maps are taken to be square where they can."""
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    state = {k.removeprefix("dense."): v for k, v in state.items()}  # what a pooled filter holds
    module: Filter
    with torch.device("meta"):  # no memory and no random numbers for weights that are given
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
    """Left, right, bottom and top edge of a centred plane of cells, in units of Nyquist.

    Each frequency is in the middle of its cell; rows run downwards.
    """
    left, right = (-(width // 2) - 0.5) * 2 / width, ((width + 1) // 2 - 0.5) * 2 / width
    top, bottom = (-(height // 2) - 0.5) * 2 / height, ((height + 1) // 2 - 0.5) * 2 / height
    return left, right, bottom, top


def high_pass_edge(fam: Mapping[str, Any]) -> tuple[str, float] | None:
    """Where the high-pass filter's response is a half, in units of Nyquist; None without an edge.

    Args:
        fam: the node ``MODEL.DISTILLER.FAM``.

    Returns:
        ``"box"`` and half its side, or ``"circle"`` and its radius.
    """
    kind, cutoff = fam["HIGH_PASS"], float(fam["CUTOFF"])
    if kind == "none" or cutoff == 0.0:
        return None
    if kind == "ideal":
        return "box", cutoff
    # 1 - exp(-D^2 / (2 D0^2)) = 1/2 at D = D0 sqrt(2 ln 2); 1 / (1 + (D0 / D)^2n) at D = D0
    return "circle", cutoff * (math.sqrt(2 * math.log(2)) if kind == "gaussian" else 1.0)
