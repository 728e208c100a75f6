"""Which feature maps of student and teacher belong together, and which of their cells are image."""

import math
from collections.abc import Iterable, Mapping, Sequence

from fam_det.core.checks import check_choice

from detectron2.layers import ShapeSpec

# How a teacher that sees a larger image is matched, and how its maps are resampled for that.
MATCHES = {"same_level": "spectrum", "same_level_area": "area", "same_scale": None}


def match_levels(
    names: Sequence[str], student: Mapping[str, ShapeSpec], teacher: Mapping[str, ShapeSpec]
) -> list[str]:
    """Names of the levels to distil, shallow to deep.

    Args:
        names: of ``MODEL.DISTILLER.LEVELS``; empty for every level that both have.
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
    """Returns the teacher's level for each of the student's levels that has one.

    That is the one of the same name, or with ``same_scale`` the one with as many cells: of
    ``input_scale`` times the stride.

    Args:
        student: shapes of the student's feature maps.
        teacher: shapes of the teacher's feature maps.
        match: of ``MATCHES``.
        input_scale: size of the teacher's image over that of the student's.

    Raises:
        ValueError: another match, or one that the scale does not allow.
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
    """Returns the teacher's shapes by the student's names, strides in the pixels that compare.

    The arguments, and what is raised, are those of ``pair_levels``.
    """
    divisor = round(input_scale) if match == "same_scale" else 1
    return {
        own: ShapeSpec(channels=teacher[name].channels, stride=teacher[name].stride // divisor)
        for own, name in pair_levels(student, teacher, match, input_scale).items()
    }


def thin_maps(student: Iterable[int], teacher: Iterable[int]) -> tuple[int, int] | None:
    """Returns k and C of a student whose maps all have k channels and a teacher's that have C > k.

    None for any other pair.

    Args:
        student: channels of its maps.
        teacher: channels of its maps.
    """
    own, others = set(student), set(teacher)
    if len(own) == len(others) == 1 and min(own) < min(others):
        return min(own), min(others)
    return None


def valid_sizes(image_sizes: Sequence[tuple[int, ...]], stride: int) -> list[tuple[int, int]]:
    """Cells of a feature map that hold image: (ceil(H / stride), ceil(W / stride)) each."""
    return [(-(-height // stride), -(-width // stride)) for height, width in image_sizes]
