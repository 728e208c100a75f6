"""Pairs feature maps of student and teacher, and finds their cells without padding."""

import math
from collections.abc import Iterable, Mapping, Sequence

from fam_det.core.checks import check_choice

from detectron2.layers import ShapeSpec

# MODEL.TEACHER.MATCH, and the method of core.resample for it: None resamples nothing.
MATCHES = {"same_level": "spectrum", "same_level_area": "area", "same_scale": None}


def match_levels(
    names: Sequence[str], student: Mapping[str, ShapeSpec], teacher: Mapping[str, ShapeSpec]
) -> list[str]:
    """Returns the names of the levels to distil, shallow to deep.

    Args:
        names: ``MODEL.DISTILLER.LEVELS``; empty for every level that both have.
        student: shapes of the student's feature maps.
        teacher: shapes of the teacher's feature maps.

    Raises:
        ValueError: no common level, a level that one of them lacks, or strides that differ.
    """
    levels = list(names) or [name for name in student if name in teacher]
    if not levels:
        raise ValueError(
            f"MODEL.DISTILLER.LEVELS: student ({', '.join(student)}) and teacher "
            f"({', '.join(teacher)}) have no feature map of the same name"
        )
    for level in levels:
        for owner, shapes in (("student", student), ("teacher", teacher)):
            if level not in shapes:
                raise ValueError(
                    f"MODEL.DISTILLER.LEVELS: the {owner} has no {level!r}, "
                    f"expected some of {', '.join(shapes)}"
                )
        strides = student[level].stride, teacher[level].stride
        if strides[0] != strides[1]:
            raise ValueError(
                f"MODEL.DISTILLER.LEVELS: {level!r} has stride {strides[0]} in the student and "
                f"{strides[1]} in the teacher; leave it out or use a teacher of equal strides"
            )
    return sorted(levels, key=lambda level: student[level].stride)


def pair_levels(
    student: Mapping[str, ShapeSpec],
    teacher: Mapping[str, ShapeSpec],
    match: str = "same_level",
    input_scale: float = 1.0,
) -> dict[str, str]:
    """Returns the teacher's level for each of the student's levels; those without one are left out.

    The teacher's level has the same name or, for ``same_scale``, as many cells: its stride is
    ``input_scale`` times the student's.

    Args:
        student: shapes of the student's feature maps.
        teacher: shapes of the teacher's feature maps.
        match: key of ``MATCHES``.
        input_scale: size of the teacher's image over that of the student's.

    Raises:
        ValueError: an unknown match, or a scale that it does not allow.
    """
    check_choice("MODEL.TEACHER.MATCH", match, MATCHES)
    if not 1 <= input_scale < math.inf:
        raise ValueError(f"MODEL.TEACHER.INPUT_SCALE: got {input_scale}, expected 1 or more")
    if match != "same_scale":
        return {name: name for name in student if name in teacher}
    if not math.log2(input_scale).is_integer():
        raise ValueError(
            f"MODEL.TEACHER.INPUT_SCALE: got {input_scale:g}, expected 1, 2, 4, ... for "
            "MODEL.TEACHER.MATCH 'same_scale'; 'same_level' takes any scale"
        )
    by_stride = {shape.stride: name for name, shape in teacher.items()}
    strides = {name: round(shape.stride * input_scale) for name, shape in student.items()}
    return {name: by_stride[stride] for name, stride in strides.items() if stride in by_stride}


def paired_shapes(
    student: Mapping[str, ShapeSpec],
    teacher: Mapping[str, ShapeSpec],
    match: str = "same_level",
    input_scale: float = 1.0,
) -> dict[str, ShapeSpec]:
    """Returns the teacher's shapes by the student's names.

    For ``same_scale`` their strides are in pixels of the student's image. Arguments and errors are
    those of ``pair_levels``.
    """
    divisor = round(input_scale) if match == "same_scale" else 1
    return {
        level: ShapeSpec(channels=teacher[name].channels, stride=teacher[name].stride // divisor)
        for level, name in pair_levels(student, teacher, match, input_scale).items()
    }


def thin_maps(student: Iterable[int], teacher: Iterable[int]) -> tuple[int, int] | None:
    """Returns (k, C) if the student's maps all have k channels and the teacher's all C > k.

    None otherwise.

    Args:
        student: channels of its maps.
        teacher: channels of its maps.
    """
    widths, channels = set(student), set(teacher)
    if len(widths) == len(channels) == 1 and min(widths) < min(channels):
        return min(widths), min(channels)
    return None


def valid_sizes(image_sizes: Sequence[tuple[int, ...]], stride: int) -> list[tuple[int, int]]:
    """Returns each image's cells of a feature map: (ceil(H / stride), ceil(W / stride))."""
    return [(-(-height // stride), -(-width // stride)) for height, width in image_sizes]
