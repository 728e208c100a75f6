"""The distiller's keys: its levels, and whether the student starts with the teacher's heads."""

from collections.abc import Sequence
from typing import Any

from fam_det.modeling.inherit import inherit
from fam_det.modeling.levels import match_levels
from fam_det.recipes.data import list_names
from fam_det.recipes.overrides import Override, Overrides
from fam_det.recipes.teacher import ZOO_EXAMPLE, Teacher

# Parts that the student can take from its teacher, by the student's meta-architecture.
HEADS = {
    "GeneralizedRCNN": ["proposal_generator", "roi_heads", "backbone.fpn_output*"],
    "RetinaNet": ["head", "backbone.fpn_output*"],
}
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
    student: Any, teacher: Teacher, names: Sequence[str], inherit_heads: bool | None
) -> tuple[Overrides, str]:
    """Returns the keys of the distiller, and a line that says how the student starts.

    With ``inherit_heads`` it insists on the teacher's heads, even where its class names are not the
    data's; with False it does without; with None it takes them where everything is the same.
    """
    levels = _shared_levels(student.backbone, teacher)
    obstacle = _obstacle(student, teacher, names, inherit_heads)
    if obstacle:
        reason = "those that both have" + " but p2, the costliest" * ("p2" in levels)
        cheap = Override([level for level in levels if level != "p2"], reason)
        line = f"{obstacle}: distilling FPN features only"
        return DISTILLER | {"MODEL.DISTILLER.LEVELS": cheap}, line
    overrides = {
        "MODEL.DISTILLER.LEVELS": Override(levels, "those that both have"),
        "MODEL.TEACHER.INHERIT": Override(
            HEADS[teacher.architecture], "the student starts with the teacher's heads"
        ),
        "MODEL.DISTILLER.FAM.INIT": Override("identity", "these heads read the teacher's maps"),
    }
    same = f"teacher and data have {'the same ' * (not inherit_heads)}{len(names)} classes"
    return DISTILLER | overrides, f"{same}: the student starts with the teacher's heads"


def _obstacle(
    student: Any, teacher: Teacher, names: Sequence[str], inherit_heads: bool | None
) -> str | None:
    """Returns why the student does without the teacher's heads; None where it takes them."""
    if inherit_heads is False:
        return "--no-inherit-heads"
    misfit = _misfit(student, teacher, names)
    if inherit_heads and misfit:
        raise ValueError(f"--inherit-heads: {misfit}; leave it out to distil FPN features only")
    return misfit or (None if inherit_heads else _other_names(teacher, names))


def _shared_levels(student: Any, teacher: Teacher) -> list[str]:
    """Returns the names of the levels that two backbones share, shallow to deep.

    Coarser levels count only where both FPNs make them alike: p6 of an R-CNN is a pooled p5, that
    of RetinaNet a convolution of res5.
    """
    other, shapes = teacher.detector.backbone, student.output_shape()
    try:
        levels = match_levels([], shapes, other.output_shape())
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


def _misfit(student: Any, teacher: Teacher, names: Sequence[str]) -> str | None:
    """Returns why the heads' weights cannot be copied, which is tried out; None where they can."""
    if teacher.num_classes != len(names):
        return f"the teacher detects {teacher.num_classes} classes, the data has {len(names)}"
    try:
        inherit(student, teacher.detector, HEADS[teacher.architecture])
    except ValueError as error:
        return str(error).removeprefix("MODEL.TEACHER.INHERIT: ").partition(";")[0]
    return None


def _other_names(teacher: Teacher, names: Sequence[str]) -> str | None:
    """Returns why the teacher's classes may not be the data's; None where they are."""
    hint = "if its heads fit, --inherit-heads takes them"
    if teacher.in_python:
        return f"the teacher's heads are described in Python ({hint})"
    if teacher.class_names is None:
        return f"the names of the teacher's {teacher.num_classes} classes are not known ({hint})"
    if teacher.class_names == tuple(names):
        return None
    return (
        f"the teacher's classes are {list_names(teacher.class_names)}, those of the data "
        f"{list_names(names)} ({hint})"
    )
