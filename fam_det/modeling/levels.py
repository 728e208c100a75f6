"""Which feature maps of student and teacher belong together, and which of their cells are image."""

from collections.abc import Iterable, Mapping, Sequence

from detectron2.layers import ShapeSpec


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
