"""Which feature maps of two detectors mean the same."""

from typing import Any

from fam_det.modeling.levels import match_levels

LAST_STRIDE = 32  # of a backbone's maps; coarser ones are made of them


def shared_levels(student: Any, teacher: Any) -> list[str]:
    """Names of the levels to distil, shallow to deep.

    Coarser levels count only where both FPNs make them alike: p6 of an R-CNN is a pooled p5, that
    of RetinaNet a convolution of res5.

    Args:
        student: a backbone with ``output_shape``.
        teacher: another one.

    Raises:
        ValueError: no common level, or strides that differ.
    """
    shapes = student.output_shape()
    levels = match_levels([], shapes, teacher.output_shape())
    if _top_block(student) == _top_block(teacher):
        return levels
    return [level for level in levels if shapes[level].stride <= LAST_STRIDE]


def _top_block(backbone: Any) -> tuple[str, str]:
    """What makes the coarser levels, and of which map."""
    block = getattr(backbone, "top_block", None)
    return type(block).__name__, getattr(block, "in_feature", "")
