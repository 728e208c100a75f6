"""The anchors of a detector, and a warning where an inherited head was trained on others."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

logger = logging.getLogger(__name__)


def find_anchor_generator(detector: nn.Module) -> tuple[Sequence[str], nn.Module]:
    """Returns the levels with anchors, and the anchor generator of an R-CNN or dense detector.

    No levels, and a module that is no anchor generator, for a detector without anchors.
    """
    owner: Any = getattr(detector, "proposal_generator", None) or detector
    generator = getattr(owner, "anchor_generator", None)
    if not isinstance(generator, nn.Module):
        return (), owner
    # RPN names its levels in_features, the dense detectors head_in_features.
    return getattr(owner, "in_features", None) or owner.head_in_features, generator


def cell_anchors(detector: nn.Module) -> dict[str, Tensor]:
    """Returns the anchors (A, 4) of a cell of each level, xyxy in pixels around its origin."""
    levels, generator = find_anchor_generator(detector)
    return dict(zip(levels, getattr(generator, "cell_anchors", ()), strict=False))


def warn_of_anchor_mismatch(
    student: nn.Module, teacher: nn.Module, pairs: Mapping[str, str], scale: float
) -> None:
    """Warns of anchors for which the teacher's weights were not trained.

    Args:
        student: detector whose head starts with the teacher's weights.
        teacher: detector whose anchors are in pixels of its own image.
        pairs: the teacher's level for each of the student's.
        scale: size of the teacher's image over that of the student's.
    """
    student_anchors, teacher_anchors = cell_anchors(student), cell_anchors(teacher)
    expected = {
        level: _sizes(teacher_anchors[teacher_level] / scale)
        for level, teacher_level in pairs.items()
        if level in student_anchors and teacher_level in teacher_anchors
    }
    actual = {level: _sizes(student_anchors[level]) for level in expected}
    if actual != expected:
        logger.warning(
            "MODEL.ANCHOR_GENERATOR.SIZES: the inherited head was trained on anchors that are, in "
            "the student's pixels, %s on %s; the student has %s",
            list(expected.values()),
            ", ".join(expected),
            list(actual.values()),
        )


def _sizes(anchors: Tensor) -> list[float]:
    """Returns the sides of squares of the anchors' areas, rounded to a tenth of a pixel."""
    # A rotated anchor is (x, y, w, h, angle), with its centre (x, y) at the origin.
    sides = (anchors[:, 2:4] - anchors[:, :2]).prod(1).sqrt()
    return sorted({round(float(side), 1) for side in sides})
