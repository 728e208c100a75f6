"""Which stages of student and teacher a distiller compares."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from classification.distillers.base import FeatureShapes
from classification.models import Features

from detectron2.config import CfgNode


@dataclass(frozen=True)
class StagePairs:
    """The stages that are compared, shallow to deep, the pooled feature last if at all.

    Attributes:
        student: indices into the student's maps.
        teacher: indices into the teacher's maps, as many.
        student_preact: take the student's maps before the last ReLU of a stage.
        teacher_preact: the teacher's.
        pooled: append the pooled features as maps of 1x1.
    """

    student: list[int]
    teacher: list[int]
    student_preact: bool
    teacher_preact: bool
    pooled: bool

    @property
    def names(self) -> list[str]:
        """A name for each pair: the student's stage number, or ``pooled``."""
        return [f"stage{i}" for i in self.student] + ["pooled"] * self.pooled

    def shapes(self, shapes: FeatureShapes, *, teacher: bool) -> list[tuple[int, int, int]]:
        """(C, H, W) of each compared map."""
        stages = self.teacher if teacher else self.student
        return [shapes.maps[i] for i in stages] + [(shapes.pooled, 1, 1)] * self.pooled

    def student_maps(self, features: Features) -> list[Tensor]:
        """The student's maps (N, C, H, W)."""
        return self._maps(features, self.student, self.student_preact)

    def teacher_maps(self, features: Features) -> list[Tensor]:
        """The teacher's maps (N, C, H, W)."""
        return self._maps(features, self.teacher, self.teacher_preact)

    def _maps(self, features: Features, stages: list[int], preact: bool) -> list[Tensor]:
        maps = features.preactivation if preact else features.maps
        return [maps[i] for i in stages] + [features.pooled[..., None, None]] * self.pooled


def stage_pairs(node: CfgNode, student: FeatureShapes, teacher: FeatureShapes) -> StagePairs:
    """The pairs that a ``MODEL.DISTILLER`` node asks for.

    Raises:
        ValueError: a stage that is not there, or another number of stages for the teacher.
    """
    chosen = {}
    for key, shapes in (("STUDENT_STAGES", student), ("TEACHER_STAGES", teacher)):
        chosen[key] = check_stages(key, node[key], len(shapes.maps))
    students, teachers = chosen.values()
    if len(students) != len(teachers):
        raise ValueError(
            f"STUDENT_STAGES, TEACHER_STAGES: got {students} and {teachers}, "
            "expected as many of one as of the other"
        )
    return StagePairs(students, teachers, node.STUDENT_PREACT, node.TEACHER_PREACT, node.POOLED)


def check_stages(key: str, stages: Sequence[int], number: int) -> list[int]:
    """The stages as a list, every one but the stem if none are given."""
    if not stages:
        return list(range(1, number))
    if any(not 0 <= stage < number for stage in stages) or list(stages) != sorted(set(stages)):
        raise ValueError(
            f"{key}: got {list(stages)}, expected rising numbers from 0 to {number - 1}"
        )
    return list(stages)
