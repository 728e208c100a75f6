"""What the global filters of a checkpoint let through, by frequency."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fam_det.core.filters import BandedFilter, DenseFilter, SeparableFilter
from fam_det.core.high_pass import high_pass_response

MARK = ".gamma_global"  # every frequency attention module has one


def read_filters(weights: Mapping[str, Tensor], kind: str) -> list[nn.Module]:
    """The global filters of a distiller in a run's weights, shallow to deep.

    Args:
        weights: a state dict with ``distiller.*`` keys.
        kind: "dense", "banded" or "separable", as ``MODEL.DISTILLER.FAM.FILTER``.
    """
    modules = [name.removesuffix(MARK) for name in weights if name.endswith(MARK)]
    return [read_filter(weights, f"{module}.filter.", kind) for module in modules]


def read_filter(weights: Mapping[str, Tensor], prefix: str, kind: str) -> nn.Module:
    """One filter, built in the shape of its weights."""
    state = {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    module: nn.Module
    if "gain" in state:
        grid, _, channels, _ = state["gain"].shape
        module = SeparableFilter(channels, state["mix.weight"].shape[0], grid)
    else:
        rows, columns, c_in, c_out, _ = state["weight"].shape
        if kind == "banded" and rows > 1:
            module = BandedFilter(c_in, c_out, rows)
        else:
            square = rows // 2 + 1 == columns
            module = DenseFilter(c_in, c_out, rows, rows if square else 2 * (columns - 1))
    module.load_state_dict(state)
    return module


@torch.no_grad()
def magnitude(module: nn.Module, size: int) -> Tensor:
    """|K| averaged over input and output channels, (H, W), zero frequency in the middle.

    Args:
        module: a filter; a dense one is shown at its own size.
        size: H and W for the others.
    """
    height, width = size, size
    if isinstance(module, DenseFilter):
        height, width = module.height, module.width
    spectrum = cast(BandedFilter, module).spectrum(height, width)  # (H, V, C_in, C_out)
    return whole_plane(spectrum.abs().mean((-2, -1)), width)


def high_pass_plane(kind: str, size: int, cutoff: float, order: int) -> Tensor:
    """The high-pass filter's response, (H, W) in [0, 1], zero frequency in the middle."""
    half = high_pass_response(kind, size, size, cutoff=cutoff, order=order)
    return whole_plane(half, size)


def whole_plane(half: Tensor, width: int) -> Tensor:
    """The plane of a magnitude that is the same at mirrored frequencies, from its half.

    Args:
        half: (H, V) on the half plane of ``rfft2``.
        width: W.

    Returns:
        (H, W), zero frequency at (H // 2, W // 2).
    """
    mirrored = torch.roll(half.flip(0), 1, 0)  # row i to H - i, row 0 stays
    right = mirrored[:, 1 : (width + 1) // 2].flip(1)  # columns -1, -2, ... without Nyquist
    return torch.fft.fftshift(torch.cat([half, right], dim=1))
