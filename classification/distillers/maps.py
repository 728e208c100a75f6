"""Stage maps for the peers, which compare maps alone: the pooled feature is never one of them."""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from classification.distillers.base import FeatureShapes
from classification.distillers.stages import StagePairs, check_stages, stage_pairs

from detectron2.config import CfgNode


def map_pairs(
    node: CfgNode, student: FeatureShapes, teacher: FeatureShapes, *, published: int | None = None
) -> StagePairs:
    """The pairs that a ``MODEL.DISTILLER`` node asks for, without the pooled feature.

    Args:
        node: the config; its ``POOLED`` is of no effect here.
        student: shapes of the student's features.
        teacher: shapes of the teacher's.
        published: the one stage that the authors compare, -1 for the last; taken if the config
            names none. None: every stage but the stem.

    Raises:
        ValueError: a stage that is not there, or another number of stages for the teacher.
    """
    if published is None or node.STUDENT_STAGES or node.TEACHER_STAGES:
        return replace(stage_pairs(node, student, teacher), pooled=False)
    chosen = {}
    for key, shapes in (("STUDENT_STAGES", student), ("TEACHER_STAGES", teacher)):
        number = len(shapes.maps)
        stage = number - 1 if published == -1 else published
        chosen[key] = check_stages(key, [stage], number)
    students, teachers = chosen.values()
    return StagePairs(students, teachers, node.STUDENT_PREACT, node.TEACHER_PREACT, pooled=False)


def match_sizes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the smaller one's height and width.

    Args:
        student: (N, C, H, W).
        teacher: (N, C', H', W').

    Returns:
        (N, C, min(H, H'), min(W, W')) and (N, C', min(H, H'), min(W, W')).
    """
    height, width = (min(student.shape[i], teacher.shape[i]) for i in (2, 3))
    return (
        F.adaptive_avg_pool2d(student, (height, width)),
        F.adaptive_avg_pool2d(teacher, (height, width)),
    )
