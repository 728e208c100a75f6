"""A student that starts with parts of its teacher: the inheriting strategy.

Used for detectors by ICD (Kang et al., NeurIPS 2021) and FGD (Yang et al., CVPR 2022), which start
the student's neck and heads from the teacher's. The student's maps must then come to mean what the
teacher's mean, which is what a distiller asks of them.
"""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from fam_det.files.checkpointer import is_below


@torch.no_grad()
def inherit(
    student: nn.Module, teacher: nn.Module, parts: Sequence[str], keep: Collection[str] = ()
) -> list[str]:
    """Copies the teacher's weights of some parts into the student.

    Args:
        student: a detector.
        teacher: another one.
        parts: names of submodules, with the wildcards of ``fnmatch``: ``roi_heads`` or
            ``backbone.fpn_output*``.
        keep: parameters and buffers of the student that stay as they are.

    Returns:
        Names of the parameters and buffers that were copied.

    Raises:
        ValueError: a part that the student lacks, or one that the teacher lacks or has in another
            shape; nothing is copied then.
    """
    own, others = student.state_dict(), teacher.state_dict()
    names = [name for part in parts for name in _names_of(part, own) if name not in keep]
    for name in names:
        _check(name, own[name], others.get(name))
    for name in names:
        own[name].copy_(others[name])
    return names


def _names_of(part: str, names: Iterable[str]) -> list[str]:
    """Returns the names below a part."""
    names = list(names)
    found = [name for name in names if is_below(name, part)]
    if not found:
        known = sorted({name.partition(".")[0] for name in names})
        raise ValueError(
            f"MODEL.TEACHER.INHERIT: the student has no part {part!r}, its parts are {known}"
        )
    return found


def _check(name: str, own: Tensor, other: Tensor | None) -> None:
    if other is None:
        raise ValueError(
            f"MODEL.TEACHER.INHERIT: the teacher has no {name}; inherit parts that both have"
        )
    if own.shape != other.shape:
        raise ValueError(
            f"MODEL.TEACHER.INHERIT: {name} has shape {tuple(own.shape)} in the student and "
            f"{tuple(other.shape)} in the teacher; inherit parts of one shape, such as "
            "'roi_heads.box_head' where the classes differ"
        )
