"""The anchors of a detector, and whether they suit the teacher's head that is to score them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

logger = logging.getLogger(__name__)


def anchors_of(detector: nn.Module) -> tuple[Sequence[str], nn.Module]:
    """Returns the levels with anchors, and the anchor generator of an R-CNN or dense detector."""
    part: Any = getattr(detector, "proposal_generator", None) or detector
    generator = getattr(part, "anchor_generator", None)
    if not isinstance(generator, nn.Module):
        return (), part
    return part.in_features if hasattr(part, "in_features") else part.head_in_features, generator


def cell_anchors(detector: nn.Module) -> dict[str, Tensor]:
    """Returns the anchors (A, 4) of a cell of each level, xyxy in pixels around its origin."""
    names, generator = anchors_of(detector)
    return dict(zip(names, getattr(generator, "cell_anchors", ()), strict=False))


def warn_of_other_anchors(
    student: nn.Module, teacher: nn.Module, pairs: Mapping[str, str], scale: float
) -> None:
    """Warns of anchors for which the teacher's weights were not trained.

    Args:
        student: whose head starts with the teacher's weights.
        teacher: whose anchors are of the same objects, in pixels of its own image.
        pairs: the teacher's level for each of the student's.
        scale: size of the teacher's image over that of the student's.
    """
    own, others = cell_anchors(student), cell_anchors(teacher)
    expected = {x: others[y] / scale for x, y in pairs.items() if x in own and y in others}
    if any(_sizes(anchors) != _sizes(own[level]) for level, anchors in expected.items()):
        logger.warning(
            "MODEL.ANCHOR_GENERATOR.SIZES: the inherited head was trained on anchors that are, in "
            "the student's pixels, %s on %s; the student has %s",
            [_sizes(anchors) for anchors in expected.values()],
            ", ".join(expected),
            [_sizes(own[level]) for level in expected],
        )


def _sizes(anchors: Tensor) -> list[float]:
    """Returns the sides of squares of the anchors' areas, rounded to a tenth of a pixel."""
    sides = (anchors[:, 2:] - anchors[:, :2]).prod(1).sqrt()
    return sorted({round(float(side), 1) for side in sides})
