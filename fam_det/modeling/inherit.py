"""A student that starts with parts of its teacher: the inheriting strategy.

Used for detectors by ICD (Kang et al., NeurIPS 2021) and FGD (Yang et al., CVPR 2022), which start
the student's neck and heads from the teacher's. The student's maps must then come to mean what the
teacher's mean, which is what a distiller asks of them. Where the student's maps are thinner, its
heads read them in a basis of the teacher's, see ``basis``; where its classes are others, it takes
the rows of those that the teacher knows.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fam_det.files.checkpointer import is_below

from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead

KEY = "MODEL.TEACHER.INHERIT"


class Rows(NamedTuple):
    """Rows of a layer's weights that belong to classes which both know."""

    own: Tensor  # int64
    others: Tensor  # int64, as many


@torch.no_grad()
def inherit(
    student: nn.Module,
    teacher: nn.Module,
    parts: Sequence[str],
    *,
    keep: Collection[str] = (),
    basis: Tensor | None = None,
    classes: Sequence[int] = (),
) -> list[str]:
    """Copies the teacher's weights of some parts into the student.

    Args:
        student: a detector.
        teacher: another one.
        parts: names of submodules, with the wildcards of ``fnmatch``: ``roi_heads`` or
            ``backbone.fpn_output*``.
        keep: parameters and buffers of the student that stay as they are.
        basis: E (C, k), where the teacher's maps have C channels and the student's k: layers that
            read maps are folded.
        classes: for each class of the student the teacher's class whose rows it takes, or -1 for
            none: those rows stay as they are. Empty where the classes are the same.

    Returns:
        Names of the parameters and buffers that were copied.

    Raises:
        ValueError: a part that the student lacks, or one that the teacher lacks or has in another
            shape, or classes that are not there; nothing is copied then.
    """
    own, others = student.state_dict(), teacher.state_dict()
    names = [name for name in _names_of_parts(parts, own) if name not in keep]
    rows = class_rows(student, teacher, classes) if classes else {}
    taken = {}
    for name in names:
        if name not in others:
            raise ValueError(f"{KEY}: the teacher has no {name}; inherit parts that both have")
        taken[name] = _taken(name, own[name], others[name], basis, rows.get(name))
    for name, value in taken.items():
        own[name].copy_(value)
    return names


def _names_of_parts(parts: Sequence[str], names: Iterable[str]) -> Iterator[str]:
    """Yields the names below each part."""
    names = list(names)
    for part in parts:
        found = [name for name in names if is_below(name, part)]
        if not found:
            known = sorted({name.partition(".")[0] for name in names})
            raise ValueError(f"{KEY}: the student has no part {part!r}, its parts are {known}")
        yield from found


def _taken(
    name: str, own: Tensor, other: Tensor, basis: Tensor | None, rows: Rows | None
) -> Tensor:
    """Returns the values of a student's tensor: copied, folded, or the rows of some classes."""
    if basis is not None and reads_maps(own, other, *basis.shape):
        other = fold(other, basis)
    if rows is not None and own.shape[1:] == other.shape[1:]:
        return own.index_copy(0, rows.own.to(own.device), other[rows.others].to(own))
    if own.shape != other.shape:
        raise ValueError(
            f"{KEY}: {name} has shape {tuple(own.shape)} in the student and "
            f"{tuple(other.shape)} in the teacher; {_hint(name, other)}"
        )
    return other


def _hint(name: str, other: Tensor) -> str:
    """Returns what to do about a shape."""
    if name.endswith("rpn_head.conv.weight"):
        return f"set MODEL.RPN.CONV_DIMS [{len(other)}]: by default it is the FPN's width"
    if ".fpn_" in name:
        return "where FPNs differ in width inherit heads alone, such as 'roi_heads'"
    if "_subnet." in name:
        return (
            "a RetinaNet in YAML has subnets as wide as its FPN; a config in Python can give its "
            "head conv_dims of its own"
        )
    return (
        "inherit parts of one shape, such as 'roi_heads.box_head', or say in "
        "MODEL.TEACHER.CLASSES which classes are the same"
    )


def first_layers(
    student: nn.Module, teacher: nn.Module, parts: Sequence[str], channels: int, width: int
) -> list[Tensor]:
    """Returns the teacher's weights, each (rows, C), of layers in some parts that read the maps.

    Args:
        student: a detector whose maps have k channels.
        teacher: one whose maps have C.
        parts: as of ``inherit``.
        channels: C.
        width: k.
    """
    own, others = student.state_dict(), teacher.state_dict()
    return [
        others[name].unflatten(1, (channels, -1)).transpose(1, -1).flatten(0, -2)
        for name in _names_of_parts(parts, own)
        if name in others and reads_maps(own[name], others[name], channels, width)
    ]


def reads_maps(own: Tensor, other: Tensor, channels: int, width: int) -> bool:
    """Returns whether weights (out, in, ...) read k channels in the student and C in the teacher.

    A linear layer reads them in every cell of a region: (out, C * cells).
    """
    return (
        own.dim() == other.dim() > 1
        and own.shape[0] == other.shape[0]
        and own.shape[2:] == other.shape[2:]
        and own.shape[1] * channels == other.shape[1] * width
        and other.shape[1] % channels == 0
    )


def fold(weight: Tensor, basis: Tensor) -> Tensor:
    """Returns the weights W E of a layer that reads maps in a basis.

    Args:
        weight: of a convolution, (out, C, H, W), or of a linear layer on regions, (out, C * cells).
        basis: E, (C, k).
    """
    by_channel = weight.unflatten(1, (len(basis), -1)).to(basis)
    return torch.einsum("oc...,ck->ok...", by_channel, basis).flatten(1, 2).to(weight)


def class_rows(student: nn.Module, teacher: nn.Module, classes: Sequence[int]) -> dict[str, Rows]:
    """Returns the rows of shared classes by the name of a parameter, in Detectron2's heads.

    Raises:
        ValueError: ``classes`` of another length than the student's, or beyond the teacher's.
    """
    own_count, count = num_classes(student), num_classes(teacher)
    if len(classes) != own_count or not all(-1 <= x < count for x in classes):
        raise ValueError(
            f"MODEL.TEACHER.CLASSES: got {list(classes)}, expected for each of the student's "
            f"{own_count} classes one of the teacher's {count}, counted from 0, or -1"
        )
    pairs = [(i, x) for i, x in enumerate(classes) if x >= 0]
    found, others = {}, dict(teacher.named_modules())
    for name, module in student.named_modules():
        for layer in _class_layers(module):
            own = _rows_by_class(module, layer, own_count)
            theirs = _rows_by_class(others[name], layer, count) if name in others else []
            if not own or not theirs:
                continue
            last = [(own_count, count)] * (len(own) > own_count)  # the background
            shared = [*pairs, *last]
            rows = Rows(
                torch.tensor([row for i, _ in shared for row in own[i]]),
                torch.tensor([row for _, k in shared for row in theirs[k]]),
            )
            found[f"{name}.{layer}.weight"] = found[f"{name}.{layer}.bias"] = rows
    return found


def check_class_order(
    student: nn.Module,
    teacher: nn.Module,
    parts: Sequence[str],
    own: Sequence[Mapping[str, Any]],
    teachers: Sequence[Mapping[str, Any]],
) -> None:
    """Raises a ValueError where class i would inherit the rows of a class of another name.

    That is known where the name is another of the teacher's.

    Args:
        student: a detector.
        teacher: another one.
        parts: as of ``inherit``.
        own: categories of the student's classes, with a ``name``; empty where they are not known.
        teachers: of the teacher's.
    """
    names, others = ([x["name"] for x in side] for side in (own, teachers))
    if names == others:  # also where two have one name
        return
    classes = [others.index(name) if name in others else -1 for name in names]
    if len(names) != len(others) or all(x in (-1, i) for i, x in enumerate(classes)):
        return
    rows = class_rows(student, teacher, classes)
    if not rows.keys().isdisjoint(_names_of_parts(parts, student.state_dict())):
        i = next(i for i, x in enumerate(classes) if x not in (-1, i))
        raise ValueError(
            f"{KEY}: class {i} of the data is {names[i]!r}, of the teacher {others[i]!r}; set "
            f"MODEL.TEACHER.CLASSES {classes}"
        )


def _class_layers(module: nn.Module) -> Sequence[str]:
    """Returns the layers of one of Detectron2's heads that may have rows by class."""
    if isinstance(module, FastRCNNOutputLayers):
        return "cls_score", "bbox_pred"
    if isinstance(module, MaskRCNNConvUpsampleHead):
        return ("predictor",)
    return ("cls_score",) if isinstance(module, RetinaNetHead) else ()


def _rows_by_class(module: Any, layer: str, count: int) -> list[list[int]]:
    """Returns the rows of each class, then those of the background; none if classes share rows."""
    size = len(getattr(module, layer).weight) if hasattr(module, layer) else 0
    if isinstance(module, RetinaNetHead):  # all classes of an anchor follow one another
        return [list(range(k, size, count)) for k in range(count)]
    if layer == "bbox_pred":
        return [list(range(4 * k, 4 * k + 4)) for k in range(count)] if size == 4 * count else []
    return [[k] for k in range(size)] if size == count + (layer == "cls_score") else []


def num_classes(detector: nn.Module) -> int:
    """Returns the number of classes that a detector finds."""
    heads: Any = getattr(detector, "roi_heads", detector)
    return int(heads.num_classes)
