"""Initialises parts of the student with the teacher's weights: the inheriting strategy.

ICD (Kang et al., NeurIPS 2021) and FGD (Yang et al., CVPR 2022) initialise the neck and heads of a
student detector from its teacher. The distiller then trains the student's maps to fit these heads.
If the student's maps are thinner, its heads read them in a basis of the teacher's, see ``basis``;
if its classes differ, it takes the rows of those that the teacher knows.
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
    """Rows of a layer's weights that belong to the classes which both have."""

    student: Tensor  # int64
    teacher: Tensor  # int64, as many


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
        keep: parameters and buffers of the student that are not overwritten.
        basis: E (C, k), if the teacher's maps have C channels and the student's k: it is folded
            into layers that read the maps.
        classes: for each class of the student the teacher's class whose rows it takes, or -1 to
            keep the student's rows. Empty if the classes are the same.

    Returns:
        Names of the parameters and buffers that were copied.

    Raises:
        ValueError: a part that the student lacks, or that the teacher lacks or has in another
            shape, or classes out of range; nothing is copied then.
    """
    student_state, teacher_state = student.state_dict(), teacher.state_dict()
    names = [name for name in _names_of_parts(parts, student_state) if name not in keep]
    rows = class_rows(student, teacher, classes) if classes else {}
    inherited = {}
    for name in names:
        if name not in teacher_state:
            raise ValueError(f"{KEY}: the teacher has no {name}; inherit parts that both have")
        inherited[name] = _inherited_value(
            name, student_state[name], teacher_state[name], basis, rows.get(name)
        )
    for name, value in inherited.items():
        student_state[name].copy_(value)
    return names


def _names_of_parts(parts: Sequence[str], names: Iterable[str]) -> Iterator[str]:
    """Yields the names below each part; raises a ValueError for a part without any."""
    names = list(names)
    for part in parts:
        matches = [name for name in names if is_below(name, part)]
        if not matches:
            known = sorted({name.partition(".")[0] for name in names})
            raise ValueError(f"{KEY}: the student has no part {part!r}, its parts are {known}")
        yield from matches


def _inherited_value(
    name: str, student: Tensor, teacher: Tensor, basis: Tensor | None, rows: Rows | None
) -> Tensor:
    """Returns a new value for a student's tensor: copied, folded, or with some classes' rows."""
    if basis is not None and reads_maps(student, teacher, *basis.shape):
        teacher = fold(teacher, basis)
    if rows and student.shape[1:] == teacher.shape[1:] and len(rows.student) == len(rows.teacher):
        return student.index_copy(
            0, rows.student.to(student.device), teacher[rows.teacher].to(student)
        )
    if student.shape != teacher.shape:
        raise ValueError(
            f"{KEY}: {name} has shape {tuple(student.shape)} in the student and "
            f"{tuple(teacher.shape)} in the teacher; {_shape_hint(name, teacher)}"
        )
    return teacher


def _shape_hint(name: str, teacher: Tensor) -> str:
    """Returns how to avoid a difference of shapes."""
    if name.endswith("rpn_head.conv.weight"):
        return f"set MODEL.RPN.CONV_DIMS [{len(teacher)}]: by default it is the FPN's width"
    if ".fpn_" in name:
        return "if the FPNs differ in width, inherit heads alone, such as 'roi_heads'"
    if "_subnet." in name:
        return (
            "a RetinaNet in YAML has subnets as wide as its FPN; a config in Python can set its "
            "head's conv_dims"
        )
    return (
        "inherit parts of one shape, such as 'roi_heads.box_head', or say in "
        "MODEL.TEACHER.CLASSES which classes are the same"
    )


def first_layers(
    student: nn.Module, teacher: nn.Module, parts: Sequence[str], channels: int, width: int
) -> list[Tensor]:
    """Returns the teacher's weights, each (rows, C), of the layers in some parts that read maps.

    Args:
        student: a detector whose maps have k channels.
        teacher: a detector whose maps have C channels.
        parts: as in ``inherit``.
        channels: C.
        width: k.
    """
    student_state, teacher_state = student.state_dict(), teacher.state_dict()
    return [
        teacher_state[name].unflatten(1, (channels, -1)).transpose(1, -1).flatten(0, -2)
        for name in _names_of_parts(parts, student_state)
        if name in teacher_state
        and reads_maps(student_state[name], teacher_state[name], channels, width)
    ]


def reads_maps(student: Tensor, teacher: Tensor, channels: int, width: int) -> bool:
    """Returns whether weights (out, in, ...) read k channels in the student and C in the teacher.

    A linear layer on regions reads the channels of all their cells: (out, C * cells).
    """
    return (
        student.dim() == teacher.dim() > 1
        and student.shape[0] == teacher.shape[0]
        and student.shape[2:] == teacher.shape[2:]
        and student.shape[1] * channels == teacher.shape[1] * width
        and teacher.shape[1] % channels == 0
    )


def fold(weight: Tensor, basis: Tensor) -> Tensor:
    """Returns the weights W E of a layer for maps in a basis.

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
    student_count, teacher_count = num_classes(student), num_classes(teacher)
    if len(classes) != student_count or not all(-1 <= x < teacher_count for x in classes):
        raise ValueError(
            f"MODEL.TEACHER.CLASSES: got {list(classes)}, expected for each of the student's "
            f"{student_count} classes one of the teacher's {teacher_count}, counted from 0, or -1"
        )
    pairs = [(i, k) for i, k in enumerate(classes) if k >= 0]
    rows = {}
    teacher_modules = dict(teacher.named_modules())
    for name, module in student.named_modules():
        if name not in teacher_modules:
            continue
        for layer in _class_layers(module):
            student_rows = _rows_by_class(module, layer, student_count)
            teacher_rows = _rows_by_class(teacher_modules[name], layer, teacher_count)
            if not student_rows or not teacher_rows:
                continue
            has_background = len(student_rows) > student_count
            shared = [*pairs, (student_count, teacher_count)] if has_background else pairs
            rows[f"{name}.{layer}.weight"] = rows[f"{name}.{layer}.bias"] = Rows(
                torch.tensor([row for i, _ in shared for row in student_rows[i]]),
                torch.tensor([row for _, k in shared for row in teacher_rows[k]]),
            )
    return rows


def check_class_order(
    student: nn.Module,
    teacher: nn.Module,
    parts: Sequence[str],
    student_categories: Sequence[Mapping[str, Any]],
    teacher_categories: Sequence[Mapping[str, Any]],
) -> None:
    """Raises a ValueError if class i would inherit the rows of a class of another name.

    Only a name that the teacher has at another index shows that; a new name may be a synonym.

    Args:
        student: a detector.
        teacher: another one.
        parts: as in ``inherit``.
        student_categories: with a ``name`` for each of the student's classes; empty if unknown.
        teacher_categories: the same of the teacher's classes.
    """
    names = [x["name"] for x in student_categories]
    teacher_names = [x["name"] for x in teacher_categories]
    if names == teacher_names:  # index() below would mislead if two classes have one name
        return
    classes = [teacher_names.index(x) if x in teacher_names else -1 for x in names]
    if len(names) != len(teacher_names) or all(k in (-1, i) for i, k in enumerate(classes)):
        return
    rows = class_rows(student, teacher, classes)
    if not rows.keys().isdisjoint(_names_of_parts(parts, student.state_dict())):
        i = next(i for i, k in enumerate(classes) if k not in (-1, i))
        raise ValueError(
            f"{KEY}: class {i} of the data is {names[i]!r}, of the teacher {teacher_names[i]!r}; "
            f"set MODEL.TEACHER.CLASSES {classes}"
        )


def _class_layers(module: nn.Module) -> Sequence[str]:
    """Returns the layers of one of Detectron2's heads that may have rows by class."""
    if isinstance(module, FastRCNNOutputLayers):
        return "cls_score", "bbox_pred"
    if isinstance(module, MaskRCNNConvUpsampleHead):
        return ("predictor",)
    return ("cls_score",) if isinstance(module, RetinaNetHead) else ()


def _rows_by_class(module: Any, layer: str, count: int) -> list[list[int]]:
    """Returns the rows of each class, then of the background; empty if all classes share rows."""
    size = len(getattr(module, layer).weight) if hasattr(module, layer) else 0
    if isinstance(module, RetinaNetHead):  # rows by anchor, then by class
        return [list(range(k, size, count)) for k in range(count)]
    if layer == "bbox_pred":
        return [list(range(4 * k, 4 * k + 4)) for k in range(count)] if size == 4 * count else []
    return [[k] for k in range(size)] if size == count + (layer == "cls_score") else []


def num_classes(detector: nn.Module) -> int:
    """Returns the number of a detector's classes, without background."""
    heads: Any = getattr(detector, "roi_heads", detector)
    return int(heads.num_classes)
