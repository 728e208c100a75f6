"""The distiller's keys: its levels, and whether the student starts with the teacher's heads."""

from collections.abc import Sequence
from typing import Any

import torch

from fam_det.data.audit import list_names
from fam_det.modeling.inherit import inherit
from fam_det.modeling.levels import match_levels, paired_shapes, thin_maps
from fam_det.recipes.overrides import Override, Overrides
from fam_det.recipes.teacher import ZOO_EXAMPLE, Teacher

# Parts that the student can take from its teacher, by the student's meta-architecture.
HEADS = {"GeneralizedRCNN": ["proposal_generator", "roi_heads"], "RetinaNet": ["head"]}
LAST_STRIDE = 32  # of a backbone's maps; coarser ones are made of them
# As configs/Base-FAM.yaml, which the COCO recipes are based on. The best row on the blood cells
# (there with the teacher's heads at 54); see docs/choosing.md.
DISTILLER: Overrides = {
    "MODEL.DISTILLER.NAME": Override("LayerToLayerDistiller", "see docs/choosing.md"),
    "MODEL.DISTILLER.LOSS": Override("spectral_correlation"),
    "MODEL.DISTILLER.LOSS_WEIGHT": Override(18.0, "the best one depends on data and schedule"),
    "MODEL.DISTILLER.FAM.BRANCHES": Override(["global"], "leaves the lowest frequencies alone"),
}


def distiller_overrides(
    student: Any,
    teacher: Teacher,
    names: Sequence[str],
    inherit_heads: bool | None,
    match: str = "same_level",
    input_scale: float = 1.0,
) -> tuple[Overrides, list[str]]:
    """Returns the keys of the distiller, and lines that say how the student starts.

    With ``inherit_heads`` it insists on all of the teacher's heads, even where its class names are
    not the data's; with False it does without; with None it takes those that fit, where teacher and
    data share a class. The last two are of ``MODEL.TEACHER``, see ``levels``.
    """
    levels = _shared_levels(student.backbone, teacher, match, input_scale)
    try:
        parts, classes, lines = _heads(student, teacher, names, inherit_heads)
    except _NoHeadsError as obstacle:
        if inherit_heads:
            raise ValueError(
                f"--inherit-heads: {obstacle}; leave it out to take the heads that fit, if any"
            ) from obstacle
        reason = "those that both have" + " but p2, the costliest" * ("p2" in levels)
        cheap = Override([level for level in levels if level != "p2"], reason)
        line = f"{obstacle}: distilling FPN features only"
        return DISTILLER | {"MODEL.DISTILLER.LEVELS": cheap}, [line]
    overrides = {
        "MODEL.DISTILLER.LEVELS": Override(levels, "those that both have"),
        "MODEL.TEACHER.INHERIT": Override(parts, "the student starts with the teacher's heads"),
        "MODEL.TEACHER.CLASSES": Override(classes, "the teacher's classes, -1 for a new one"),
        "MODEL.DISTILLER.FAM.INIT": Override("identity", "these heads read the teacher's maps"),
    }
    return DISTILLER | overrides, lines


class _NoHeadsError(Exception):
    """Says why the student does without the teacher's heads."""


def _heads(
    student: Any, teacher: Teacher, names: Sequence[str], inherit_heads: bool | None
) -> tuple[list[str], list[int], list[str]]:
    """Returns the parts to take, the teacher's class for each of the data's, and lines on both."""
    if inherit_heads is False:
        raise _NoHeadsError("--no-inherit-heads")
    classes, line = _classes(teacher, names, insist=bool(inherit_heads))
    shapes = [x.backbone.output_shape().values() for x in (student, teacher.detector)]
    thin = thin_maps(*([shape.channels for shape in own] for own in shapes))  # k and C, or None
    basis = torch.zeros(thin[::-1]) if thin else None
    # The FPN's output convolutions fit where the FPNs are of one width.
    parts = [*HEADS[teacher.architecture], *([] if thin else ["backbone.fpn_output*"])]
    fitting, misfits = [], []
    for part in parts:
        try:
            inherit(student, teacher.detector, [part], basis=basis, classes=classes)
            fitting.append(part)
        except ValueError as error:
            reason = str(error).removeprefix("MODEL.TEACHER.INHERIT: ")
            misfits.append(reason.partition(";")[0])
    if misfits and (inherit_heads or not fitting):
        raise _NoHeadsError(misfits[0])
    return fitting, classes, [line, *(f"starts anew: {misfit}" for misfit in misfits)]


def _classes(teacher: Teacher, names: Sequence[str], *, insist: bool) -> tuple[list[int], str]:
    """Returns the teacher's class for each of the data's, [] for the same, and a line on it."""
    known = [] if teacher.in_python else list(teacher.class_names or ())
    heads = "the student starts with the teacher's heads"
    if known == list(names):
        return [], f"teacher and data have the same {len(names)} classes: {heads}"
    shared = [name for name in names if name in known]
    if shared:
        new = [name for name in names if name not in known]
        line = f"classes that the teacher knows: {list_names(shared)}: {heads}"
        classes = [known.index(name) if name in known else -1 for name in names]
        return classes, line + f"; new: {list_names(new)}" * bool(new)
    if teacher.num_classes != len(names):
        raise _NoHeadsError(
            f"the teacher detects {teacher.num_classes} classes, the data has {len(names)}"
        )
    if not insist:
        raise _NoHeadsError(_other_names(teacher, names))
    return [], f"teacher and data have {len(names)} classes: {heads}"


def _shared_levels(student: Any, teacher: Teacher, match: str, input_scale: float) -> list[str]:
    """Returns the names of the levels that two backbones share, shallow to deep.

    Coarser levels count only where both FPNs make them alike: p6 of an R-CNN is a pooled p5, that
    of RetinaNet a convolution of res5.
    """
    other, shapes = teacher.detector.backbone, student.output_shape()
    matched = paired_shapes(shapes, other.output_shape(), match, input_scale)
    try:
        levels = match_levels([], shapes, matched)
    except ValueError as error:
        raise ValueError(
            f"--teacher: {teacher.name}: {error}; take one with an FPN, such as {ZOO_EXAMPLE}"
        ) from error
    if _top_block(student) == _top_block(other):
        return levels
    return [level for level in levels if shapes[level].stride <= LAST_STRIDE]


def _top_block(backbone: Any) -> tuple[str, str]:
    """Returns what makes the coarser levels, and of which map."""
    block = getattr(backbone, "top_block", None)
    return type(block).__name__, getattr(block, "in_feature", "")


def _other_names(teacher: Teacher, names: Sequence[str]) -> str:
    """Returns why the teacher's classes may not be the data's."""
    hint = "if its heads fit, --inherit-heads takes them"
    if teacher.in_python:
        return f"the teacher's heads are described in Python ({hint})"
    if teacher.class_names is None:
        return f"the names of the teacher's {teacher.num_classes} classes are not known ({hint})"
    return (
        f"the teacher's classes are {list_names(teacher.class_names)}, those of the data "
        f"{list_names(names)} ({hint})"
    )
