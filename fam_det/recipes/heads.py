"""The distiller, and whether the student starts with the teacher's heads."""

from collections.abc import Sequence
from typing import Any

from fam_det.modeling.inherit import inherit
from fam_det.recipes.data import list_names
from fam_det.recipes.overrides import Choice, Choices
from fam_det.recipes.teacher import Teacher

# What reads the FPN's maps, by the student's meta-architecture.
HEADS = {"GeneralizedRCNN": ["proposal_generator", "roi_heads"], "RetinaNet": ["head"]}
OUTPUTS = "backbone.fpn_output*"
# The best row on the blood cells (there with the teacher's heads at 54); see docs/choosing.md.
DISTILLER: Choices = {
    "MODEL.DISTILLER.NAME": Choice("LayerToLayerDistiller", "see docs/choosing.md"),
    "MODEL.DISTILLER.LOSS": Choice("spectral_correlation"),
    "MODEL.DISTILLER.LOSS_WEIGHT": Choice(18.0, "the best one depends on data and schedule"),
    "MODEL.DISTILLER.FAM.BRANCHES": Choice(["global"], "leaves the lowest frequencies alone"),
}


def head_choices(
    student: Any, teacher: Teacher, names: Sequence[str], wanted: bool | None
) -> tuple[Choices, str]:
    """Keys of the distiller, and a line that says how the student starts.

    Args:
        student: a detector of the student's config.
        teacher: it and its class names.
        names: the data's classes.
        wanted: True to insist on the teacher's heads, even where its class names are not the
            data's; False to do without; None to inherit them where everything is the same.

    Raises:
        ValueError: heads that are insisted on and do not fit.
    """
    if wanted is False:
        return DISTILLER, "--no-inherit-heads: distilling FPN features only"
    parts = [*HEADS[teacher.student_architecture], OUTPUTS]
    obstacle = _other_count(teacher, names) or _other_heads(student, teacher, parts)
    if wanted and obstacle:
        raise ValueError(f"--inherit-heads: {obstacle}; leave it out to distil FPN features only")
    obstacle = obstacle or (None if wanted else _other_names(teacher, names))
    if obstacle:
        return DISTILLER, f"{obstacle}: distilling FPN features only"
    inherited = {
        "MODEL.TEACHER.INHERIT": Choice(parts, "the student starts with the teacher's heads"),
        "MODEL.DISTILLER.FAM.INIT": Choice("identity", "these heads read the teacher's maps"),
    }
    same = f"teacher and data have {'the same ' * (not wanted)}{len(names)} classes"
    return DISTILLER | inherited, f"{same}: the student starts with the teacher's heads"


def _other_count(teacher: Teacher, names: Sequence[str]) -> str | None:
    if teacher.num_classes == len(names):
        return None
    return f"the teacher detects {teacher.num_classes} classes, the data has {len(names)}"


def _other_heads(student: Any, teacher: Teacher, parts: Sequence[str]) -> str | None:
    """Why the weights cannot be copied, which is tried out."""
    try:
        inherit(student, teacher.detector, parts)
    except ValueError as error:
        return str(error).removeprefix("MODEL.TEACHER.INHERIT: ").partition(";")[0]
    return None


def _other_names(teacher: Teacher, names: Sequence[str]) -> str | None:
    if teacher.class_names == tuple(names) and not teacher.in_python:
        return None
    insist = "if its heads fit, --inherit-heads takes them"
    if teacher.in_python:
        return f"the teacher's heads are described in Python ({insist})"
    if teacher.class_names is None:
        return f"the names of the teacher's {teacher.num_classes} classes are not known ({insist})"
    return (
        f"the teacher's classes are {list_names(teacher.class_names)}, those of the data "
        f"{list_names(names)} ({insist})"
    )
