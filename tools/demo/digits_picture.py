"""The picture of the demo: learning curves, and below them digits with what each model says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure  # not pyplot: that would look for a display
from numpy.typing import NDArray

from tools.demo.picture import Curve, draw_curves

RIGHT, WRONG = "#108a2c", "#d01818"
CAPTION = "Of each class, the first test digit that the student alone misreads"
INCHES_TO_LINE = 0.24  # from one line of answers to the next


class Reading(NamedTuple):
    """A digit (H, W, 3) in [0, 1], what it is, and what each model says."""

    image: NDArray[np.float32]
    truth: int
    answers: list[int]


def draw_picture(
    path: Path, curves: Sequence[Curve], readings: Sequence[Reading], models: Sequence[str]
) -> None:
    """Write the picture.

    Args:
        path: of a PNG file.
        curves: for the upper part.
        readings: for the row below; none: no row.
        models: whose answers they have.
    """
    heights = [4.0, 2.6] if readings else [4.0]
    figure = Figure(figsize=(11, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    upper, *lower = parts[:, 0]
    axes = upper.subplots()
    draw_curves(axes, curves, "top-1 on test digits, %")
    axes.set_title("Handwritten digits: the same student, alone and taught with FAM-KD")
    axes.set_ylim(0, 109)  # room for the text beside a curve near 100
    for part in lower:
        part.suptitle(
            "Of each class, the first test digit that the student alone misreads", fontsize=12
        )
        draw_readings(part, readings, models)
    figure.savefig(path, dpi=110)


def draw_readings(part: Any, readings: Sequence[Reading], models: Sequence[str]) -> None:
    """A row of digits, below each what it is and what each model says."""
    row = part.subplots(1, len(readings), squeeze=False)[0]
    for axes, reading in zip(row, readings, strict=True):
        axes.imshow(reading.image, interpolation="nearest")
        axes.set_axis_off()
        write_line(axes, 0, str(reading.truth), "black")
        for i, answer in enumerate(reading.answers, start=1):
            write_line(axes, i, str(answer), RIGHT if answer == reading.truth else WRONG)
    for i, name in enumerate(["label", *models]):
        write_line(row[0], i, name, "black", left=True)


def write_line(axes: Any, line: int, text: str, colour: str, *, left: bool = False) -> None:
    """A line of text below an image, or to the left of where that would be."""
    points = -72 * INCHES_TO_LINE * (line + 0.7)
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center"}
    look = {"color": colour, "fontsize": 11, "weight": "normal" if left else "bold"}
    x, align = (0.0, "right") if left else (0.5, "center")
    axes.annotate(text, (x, 0), xytext=(0, points), ha=align, **place, **look)
