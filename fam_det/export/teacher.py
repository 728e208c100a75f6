"""The teacher beside the student, as far as it is there."""

from typing import Any, NamedTuple

from fam_det.export.source import DISTILLED
from fam_det.export.words import one_line
from fam_det.modeling.teacher import FrozenTeacher, build_teacher

from detectron2.config import CfgNode

# What a config, a checkpoint or a download that is not there raises.
ABSENT = (AssertionError, ImportError, KeyError, OSError, RuntimeError, ValueError)


class Teacher(NamedTuple):
    """A detector to measure, and what a reader of the figures must know.

    Attributes:
        detector: on the CPU; None where it cannot be built.
        flip_channels: whether it wants the student's images in the other order.
        note: why something is missing; "" for nothing.
    """

    detector: Any = None
    flip_channels: bool = False
    note: str = ""


def load_teacher(cfg: CfgNode) -> Teacher:
    """The teacher of a run with its weights; says in a note what of it is not there."""
    if cfg.MODEL.META_ARCHITECTURE != DISTILLED:
        return Teacher()
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    try:
        teacher = build_teacher(cfg)
    except ABSENT as error:
        return Teacher(note=f"no teacher beside it: {one_line(error)}")
    return Teacher(teacher.detector, teacher.flip_channels, _load_weights(teacher))


def _load_weights(teacher: FrozenTeacher) -> str:
    try:
        teacher.load_weights([name for name, _ in teacher.detector.named_children()])
    except ABSENT as error:
        return (
            "the teacher has random weights, and finds other objects in another time: "
            f"{one_line(error)}"
        )
    return ""
