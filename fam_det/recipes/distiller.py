"""The distiller's keys: its levels, and whether the student inherits the teacher's heads."""

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
LAST_STRIDE = 32  # of a backbone's maps; coarser levels are computed from them
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
    """Returns the keys of the distiller, and notes on the student's initial weights.

    Args:
        student: a detector with random weights.
        teacher: of the student.
        names: of the data's classes.
        inherit_heads: True requires all of the teacher's heads, also if its class names are not the
            data's. False inherits none. None inherits those that fit, if teacher and data share a
            class.
        match: as ``MODEL.TEACHER.MATCH``.
        input_scale: as ``MODEL.TEACHER.INPUT_SCALE``.

    Raises:
        ValueError: no shared level, or required heads that do not fit.
    """
    levels = _shared_levels(student.backbone, teacher, match, input_scale)
    try:
        parts, classes, notes = _heads(student, teacher, names, inherit_heads)
    except _NoHeadsError as error:
        if inherit_heads:
            raise ValueError(
                f"--inherit-heads: {error}; leave it out to take the heads that fit, if any"
            ) from error
        reason = "those that both have" + " but p2, the costliest" * ("p2" in levels)
        without_p2 = Override([level for level in levels if level != "p2"], reason)
        note = f"{error}: distilling FPN features only"
        return DISTILLER | {"MODEL.DISTILLER.LEVELS": without_p2}, [note]
    overrides = {
        "MODEL.DISTILLER.LEVELS": Override(levels, "those that both have"),
        "MODEL.TEACHER.INHERIT": Override(parts, "the student starts with the teacher's heads"),
        "MODEL.TEACHER.CLASSES": Override(classes, "the teacher's classes, -1 for a new one"),
        "MODEL.DISTILLER.FAM.INIT": Override("identity", "these heads read the teacher's maps"),
    }
    return DISTILLER | overrides, notes


class _NoHeadsError(Exception):
    """The reason why the student does not inherit the teacher's heads."""


def _heads(
    student: Any, teacher: Teacher, names: Sequence[str], inherit_heads: bool | None
) -> tuple[list[str], list[int], list[str]]:
    """Returns the parts to inherit, the teacher's class for each of the data's, and notes."""
    if inherit_heads is False:
        raise _NoHeadsError("--no-inherit-heads")
    classes, note = _classes(teacher, names, required=bool(inherit_heads))
    student_channels, teacher_channels = (
        [shape.channels for shape in detector.backbone.output_shape().values()]
        for detector in (student, teacher.detector)
    )
    thin = thin_maps(student_channels, teacher_channels)  # (k, C) or None
    basis = torch.zeros(thin[::-1]) if thin else None
    # The FPN's output convolutions fit only if the FPNs have the same width.
    parts = [*HEADS[teacher.architecture], *([] if thin else ["backbone.fpn_output*"])]
    # A trial on random weights shows which parts fit.
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
    return fitting, classes, [note, *(f"not inherited: {misfit}" for misfit in misfits)]


def _classes(teacher: Teacher, names: Sequence[str], *, required: bool) -> tuple[list[int], str]:
    """Returns the teacher's class for each of the data's, [] if they are equal, and a note."""
    known = [] if teacher.in_python else list(teacher.class_names or ())
    heads = "the student starts with the teacher's heads"
    if known == list(names):
        return [], f"teacher and data have the same {len(names)} classes: {heads}"
    shared = [name for name in names if name in known]
    if shared:
        new = [name for name in names if name not in known]
        note = f"classes that the teacher knows: {list_names(shared)}: {heads}"
        classes = [known.index(name) if name in known else -1 for name in names]
        return classes, note + f"; new: {list_names(new)}" * bool(new)
    if teacher.num_classes != len(names):
        raise _NoHeadsError(
            f"the teacher detects {teacher.num_classes} classes, the data has {len(names)}"
        )
    if not required:
        raise _NoHeadsError(_class_mismatch(teacher, names))
    return [], f"teacher and data have {len(names)} classes: {heads}"


def _shared_levels(student: Any, teacher: Teacher, match: str, input_scale: float) -> list[str]:
    """Returns the names of the levels that two backbones share, shallow to deep.

    Levels coarser than stride 32 count only if both FPNs compute them in the same way: p6 of an
    R-CNN is a pooled p5, that of RetinaNet a convolution of res5.
    """
    teacher_backbone, shapes = teacher.detector.backbone, student.output_shape()
    teacher_shapes = paired_shapes(shapes, teacher_backbone.output_shape(), match, input_scale)
    try:
        levels = match_levels([], shapes, teacher_shapes)
    except ValueError as error:
        raise ValueError(
            f"--teacher: {teacher.name}: {error}; take one with an FPN, such as {ZOO_EXAMPLE}"
        ) from error
    if _top_block(student) == _top_block(teacher_backbone):
        return levels
    return [level for level in levels if shapes[level].stride <= LAST_STRIDE]


def _top_block(backbone: Any) -> tuple[str, str]:
    """Returns the class of the block that computes the coarser levels, and its input map."""
    block = getattr(backbone, "top_block", None)
    return type(block).__name__, getattr(block, "in_feature", "")


def _class_mismatch(teacher: Teacher, names: Sequence[str]) -> str:
    """Returns why the teacher's classes may differ from the data's."""
    hint = "if its heads fit, --inherit-heads takes them"
    if teacher.in_python:
        return f"the teacher's heads are described in Python ({hint})"
    if teacher.class_names is None:
        return f"the names of the teacher's {teacher.num_classes} classes are not known ({hint})"
    return (
        f"the teacher's classes are {list_names(teacher.class_names)}, those of the data "
        f"{list_names(names)} ({hint})"
    )
