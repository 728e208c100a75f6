"""Loads weights of the released FAM-KD research code (github.com/cuong-pv/FAM-KD).

The released filter is a full complex spectrum; its high-pass filter zeroes, in the centred
spectrum, rows [cy - r, cy + r) with cy = H // 2 and r = int(0.1 * cy), columns alike. That window
is not symmetric: taking the real part then halves its edge. Both are folded into the converted
filter, whose own high-pass filter is switched off.

Legend: C_in and C_out channels, H and W map size, V = W // 2 + 1, k window side.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fam_det.core.filters import DenseFilter, mirror_scale
from fam_det.core.frequency_attention import FrequencyAttention
from fam_det.core.fusion import WindowCrossAttention
from fam_det.core.review import KnowledgeReview, ReviewBlock

RELEASED_CUTOFF = 0.1

StateDict = dict[str, Tensor]


def load_released(module: nn.Module, state_dict: Mapping[str, Tensor]) -> list[str]:
    """Loads released parameters, so that ``module`` gives the released outputs.

    Args:
        module: a :class:`FrequencyAttention` with the dense filter, a
            :class:`WindowCrossAttention`, a :class:`ReviewBlock` or a :class:`KnowledgeReview`,
            built for the released channels and sizes. The high-pass filter of every frequency
            attention module becomes ``"none"``: build with that to load the state dict of the
            converted module again.
        state_dict: names and tensors of the released FAM, attention, fusion block or distiller; a
            leading ``module.`` is dropped.

    Returns:
        Sorted names in ``state_dict`` that were not used: the student's and teacher's own weights,
        and the ``conv1`` of a deepest block, which the released code never calls.

    Raises:
        TypeError: a module that has no released counterpart.
        ValueError: a name that is missing or a shape that does not fit; the message names it.
    """
    if all(name.startswith("module.") for name in state_dict):
        state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    unused = dict(state_dict)
    converted = _convert(module, unused, "")
    try:
        module.load_state_dict(converted)
    except RuntimeError as error:
        raise ValueError(f"state_dict: {' '.join(str(error).split())}") from error
    for part in module.modules():
        if isinstance(part, FrequencyAttention):
            part.high_pass = "none"
    return sorted(unused)


def _convert(module: nn.Module, released: StateDict, prefix: str) -> StateDict:
    """Returns the state dict of ``module``, whose released names under ``prefix`` are removed."""
    if isinstance(module, FrequencyAttention):
        return _convert_fam(module, released, prefix)
    if isinstance(module, WindowCrossAttention):
        return _convert_attention(released, prefix)
    if isinstance(module, ReviewBlock):
        return _convert_block(module, released, prefix)
    if isinstance(module, KnowledgeReview):
        converted: StateDict = {}
        for i, block in enumerate(module.blocks):
            deepest_first = f"{prefix}atfs.{len(module.blocks) - 1 - i}."
            part = _convert(block, released, deepest_first)
            converted |= _with_prefix(part, f"blocks.{i}.")
        return converted
    raise TypeError(
        f"module: got {type(module).__name__}, expected FrequencyAttention, WindowCrossAttention, "
        "ReviewBlock or KnowledgeReview"
    )


def _convert_fam(module: FrequencyAttention, released: StateDict, prefix: str) -> StateDict:
    if not isinstance(module.filter, DenseFilter):
        raise ValueError("filter: the released weights are those of a 'dense' filter")
    weights = _take(released, f"{prefix}weights1")
    if tuple(weights.shape[2:]) != module.size:
        raise ValueError(
            f"state_dict: got a map size of {tuple(weights.shape[2:])} for {prefix}weights1, "
            f"expected {module.size}"
        )
    return {
        "filter.weight": half_spectrum(weights),
        "gamma_global": _take(released, f"{prefix}rate1"),
        "gamma_local": _take(released, f"{prefix}rate2"),
        "local.weight": _take(released, f"{prefix}w0.weight"),
        "local.bias": _take(released, f"{prefix}w0.bias"),
    }


def _convert_attention(released: StateDict, prefix: str) -> StateDict:
    return {
        **{
            f"{name}.weight": _take(released, f"{prefix}{name}_conv.weight")
            for name in ("query", "key", "value")
        },
        "row_offset": _take(released, f"{prefix}rel_h").flatten(1),  # (C/2, 1, 1, k, 1)
        "column_offset": _take(released, f"{prefix}rel_w").flatten(1),  # (C/2, 1, 1, 1, k)
    }


def _convert_block(block: ReviewBlock, released: StateDict, prefix: str) -> StateDict:
    """Converts project, residual projection, fusion, and the FAM with its BatchNorm."""
    fam, norm = block.transform[0], block.transform[1]  # type: ignore[index]
    converted = _with_prefix(_convert(fam, released, f"{prefix}conv2.0."), "transform.0.")
    for name_here, released_name, part in (
        ("transform.1.", "conv2.1.", norm),
        ("project.", "conv1_x.", block.project),
        ("project_residual.", "conv1.", block.project_residual),
    ):
        converted |= {
            f"{name_here}{name}": _take(released, f"{prefix}{released_name}{name}")
            for name in part.state_dict()
        }
    if block.fusion is not None:
        fusion = _convert(block.fusion, released, f"{prefix}att_conv.")
        converted |= _with_prefix(fusion, "fusion.")
    return converted


def half_spectrum(weights: Tensor) -> Tensor:
    """Returns the storage of the dense filter for a released one, including its high-pass filter.

    Args:
        weights: complex (C_in, C_out, H, W).

    Returns:
        real (H, V, C_in, C_out, 2).
    """
    height, width = weights.shape[2:]
    k = (weights * released_window(height, width)).permute(2, 3, 0, 1)  # (H, W, C_in, C_out)
    mirrored = torch.roll(k.flip(0, 1), (1, 1), (0, 1)).conj()  # conj K(-u, -v)
    scale = mirror_scale(width).to(weights.device)[..., None]  # (V, 1, 1)
    columns = slice(0, width // 2 + 1)
    paired = (k + mirrored)[:, columns] / 2.0 * math.sqrt(2.0)
    return torch.view_as_real(torch.where(scale == 1.0, k[:, columns], paired).resolve_conj())


def released_window(height: int, width: int) -> Tensor:
    """Returns the released high-pass filter, full spectrum, zero frequency first: (H, W)."""
    inside = []
    for size in (height, width):
        radius = int(RELEASED_CUTOFF * (size // 2))
        frequency = (torch.arange(size) + size // 2) % size - size // 2
        inside.append((frequency >= -radius) & (frequency < radius))
    return 1.0 - (inside[0][:, None] & inside[1][None, :]).float()


def _take(released: StateDict, name: str) -> Tensor:
    if name not in released:
        raise ValueError(f"state_dict: {name!r} is missing; is it of the released FAM-KD code?")
    return released.pop(name)


def _with_prefix(state_dict: StateDict, prefix: str) -> StateDict:
    return {f"{prefix}{name}": value for name, value in state_dict.items()}
