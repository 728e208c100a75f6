"""Pairs the stages of student and teacher that a distiller compares."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from classification.distillers.base import FeatureShapes
from classification.models import Features

from detectron2.config import CfgNode

Shape = tuple[int, int, int]  # C, H, W


@dataclass(frozen=True)
class Stages:
    """Stages of one network, shallow to deep."""

    indices: list[int]  # into the network's maps
    preact: bool  # take the maps before the last ReLU of a stage
    pooled: bool  # append the pooled feature as a map of 1x1
    shapes: list[Shape]  # of each map

    def maps(self, features: Features) -> list[Tensor]:
        """Returns the maps (N, C, H, W)."""
        maps = features.preactivation if self.preact else features.maps
        return [maps[i] for i in self.indices] + [features.pooled[..., None, None]] * self.pooled


@dataclass(frozen=True)
class StagePairs:
    """Pairs of stages of student and teacher."""

    student: Stages
    teacher: Stages

    @property
    def names(self) -> list[str]:
        """Returns the name of each pair: the student's stage number, or ``pooled``."""
        return [f"stage{i}" for i in self.student.indices] + ["pooled"] * self.student.pooled

    def maps(self, student: Features, teacher: Features) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yields the name and both maps of each pair."""
        return zip(self.names, self.student.maps(student), self.teacher.maps(teacher), strict=True)


def stage_pairs(
    node: CfgNode,
    student: FeatureShapes,
    teacher: FeatureShapes,
    *,
    pooled: bool = False,
    published: int | None = None,
) -> StagePairs:
    """Returns the pairs of a ``MODEL.DISTILLER`` node, shallow to deep.

    With ``pooled`` the pooled features are one more pair. If the config names no stages, it is the
    one that the authors ``published``, -1 for the last, or without it every stage but the stem.
    """
    if node.STUDENT_STAGES or node.TEACHER_STAGES:
        published = None
    students, teachers = (
        choose_stages(node, role, shapes, pooled, published)
        for role, shapes in (("STUDENT", student), ("TEACHER", teacher))
    )
    if len(students.indices) != len(teachers.indices):
        raise ValueError(
            f"STUDENT_STAGES, TEACHER_STAGES: got {students.indices} and {teachers.indices}, "
            "expected as many of one as of the other"
        )
    return StagePairs(students, teachers)


def choose_stages(
    node: CfgNode, role: str, shapes: FeatureShapes, pooled: bool, published: int | None
) -> Stages:
    """Returns the stages that the config names for a role, or those that the authors compare."""
    number = len(shapes.maps)
    published = number - 1 if published == -1 else published
    default = range(1, number) if published is None else [published]
    indices = list(node[f"{role}_STAGES"] or default)
    if any(not 0 <= stage < number for stage in indices) or indices != sorted(set(indices)):
        raise ValueError(
            f"{role}_STAGES: got {indices}, expected rising numbers from 0 to {number - 1}"
        )
    maps = [shapes.maps[i] for i in indices] + [(shapes.pooled, 1, 1)] * pooled
    return Stages(indices, node[f"{role}_PREACT"], pooled, maps)
