"""The stages of student and teacher that a distiller compares."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from classification.distillers.base import FeatureShapes
from classification.models import Features

from detectron2.config import CfgNode

Shape = tuple[int, int, int]  # C, H, W


@dataclass(frozen=True)
class StagePairs:
    """The stages that are compared, shallow to deep, the pooled feature last if at all.

    Attributes:
        student: indices into the student's maps.
        teacher: indices into the teacher's maps, as many.
        student_preact: take the student's maps before the last ReLU of a stage.
        teacher_preact: the teacher's.
        pooled: append the pooled features as maps of 1x1.
        student_shapes: (C, H, W) of each of the student's maps.
        teacher_shapes: the teacher's.
    """

    student: list[int]
    teacher: list[int]
    student_preact: bool
    teacher_preact: bool
    pooled: bool
    student_shapes: list[Shape]
    teacher_shapes: list[Shape]

    @property
    def names(self) -> list[str]:
        """A name for each pair: the student's stage number, or ``pooled``."""
        return [f"stage{i}" for i in self.student] + ["pooled"] * self.pooled

    def student_maps(self, features: Features) -> list[Tensor]:
        """Returns the student's maps (N, C, H, W)."""
        return self._maps(features, self.student, self.student_preact)

    def teacher_maps(self, features: Features) -> list[Tensor]:
        """Returns the teacher's maps (N, C, H, W)."""
        return self._maps(features, self.teacher, self.teacher_preact)

    def maps(self, student: Features, teacher: Features) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yields the name and both maps of each pair."""
        return zip(self.names, self.student_maps(student), self.teacher_maps(teacher), strict=True)

    def _maps(self, features: Features, stages: list[int], preact: bool) -> list[Tensor]:
        maps = features.preactivation if preact else features.maps
        return [maps[i] for i in stages] + [features.pooled[..., None, None]] * self.pooled


def stage_pairs(
    node: CfgNode,
    student: FeatureShapes,
    teacher: FeatureShapes,
    *,
    pooled: bool = False,
    published: int | None = None,
) -> StagePairs:
    """Returns the pairs that a ``MODEL.DISTILLER`` node asks for.

    Args:
        node: the config.
        student: shapes of the student's features.
        teacher: shapes of the teacher's.
        pooled: whether the pooled features are one more pair.
        published: the one stage that the authors compare, -1 for the last; taken if the config
            names none. None: every stage but the stem.

    Raises:
        ValueError: a stage that is not there, or another number of stages for the teacher.
    """
    if node.STUDENT_STAGES or node.TEACHER_STAGES:
        published = None
    students, teachers = (
        choose_stages(key, node[key], len(shapes.maps), published)
        for key, shapes in (("STUDENT_STAGES", student), ("TEACHER_STAGES", teacher))
    )
    if len(students) != len(teachers):
        raise ValueError(
            f"STUDENT_STAGES, TEACHER_STAGES: got {students} and {teachers}, "
            "expected as many of one as of the other"
        )
    return StagePairs(
        students,
        teachers,
        node.STUDENT_PREACT,
        node.TEACHER_PREACT,
        pooled,
        [student.maps[i] for i in students] + [(student.pooled, 1, 1)] * pooled,
        [teacher.maps[i] for i in teachers] + [(teacher.pooled, 1, 1)] * pooled,
    )


def choose_stages(key: str, stages: Sequence[int], number: int, published: int | None) -> list[int]:
    """Returns the stages that a key of the config names, or those that the authors compare."""
    if stages:
        chosen = list(stages)
    elif published is None:
        return list(range(1, number))
    else:
        chosen = [number - 1 if published == -1 else published]
    if any(not 0 <= stage < number for stage in chosen) or chosen != sorted(set(chosen)):
        raise ValueError(f"{key}: got {chosen}, expected rising numbers from 0 to {number - 1}")
    return chosen
