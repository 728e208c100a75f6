"""The picture of the demo: learning curves, and below them detections side by side."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure  # not pyplot: that would look for a display
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tools.demo.scenes import iou

MATCH_IOU = 0.5  # a detection of the right digit overlaps it at least this much
RIGHT, WRONG, MISSED = "#1fe04a", "#ff3030", "#ffe119"
LEGEND = "Solid green: the right digit.  Solid red: a wrong one.  Dotted yellow: missed."


class Curve(NamedTuple):
    """A learning curve: points (iterations, metric), and matplotlib's keywords for its line."""

    title: str
    points: Sequence[tuple[int, float]]
    style: dict[str, Any]


class Objects(NamedTuple):
    """Digits in a scene: their boxes (x, y, w, h) and labels, the most certain first."""

    boxes: list[Sequence[float]]
    labels: list[int]


class Row(NamedTuple):
    """A scene (H, W, 3) in RGB, what is in it, and what each model found."""

    image: NDArray[np.uint8]
    truth: Objects
    found: list[Objects]


def draw_picture(
    path: Path, curves: Sequence[Curve], rows: Sequence[Row], columns: Sequence[str]
) -> None:
    """Write the picture.

    Args:
        path: of a PNG file.
        curves: for the upper half.
        rows: scenes for the lower half.
        columns: titles above the ground truth and above each model's detections.
    """
    count = len(columns)
    figure = Figure(figsize=(11, 3.6 + 1.85 * len(rows)), layout="constrained")
    grid = figure.add_gridspec(1 + len(rows), count, height_ratios=[1.75, *[1] * len(rows)])
    axes = figure.add_subplot(grid[0, :])
    draw_curves(axes, curves, "AP on validation scenes")
    axes.set_title("Handwritten digits: the same student, alone and taught with FAM")
    for i, row in enumerate(rows):
        for j, objects in enumerate([row.truth, *row.found]):
            axes = figure.add_subplot(grid[1 + i, j])
            axes.imshow(row.image, interpolation="bicubic")
            axes.set_axis_off()
            draw_objects(axes, objects, row.truth)
            if i == 0:
                axes.set_title(columns[j], fontsize=11)
    figure.supxlabel(LEGEND, fontsize=10)
    figure.savefig(path, dpi=110)


def draw_curves(axes: Any, curves: Sequence[Curve], metric: str) -> None:
    """A metric over training, the last value written at the end of each curve."""
    heights = spread([curve.points[-1][1] for curve in curves])
    for curve, height in zip(curves, heights, strict=True):
        iterations, aps = zip(*curve.points, strict=True)
        axes.plot(iterations, aps, label=curve.title, **curve.style)
        place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
        colour = curve.style["color"]
        axes.annotate(
            f"{aps[-1]:.1f}", (iterations[-1], height), color=colour, weight="bold", **place
        )
    axes.set_xlabel("training iterations")
    axes.set_ylabel(metric)
    axes.set_xlim(0, 1.06 * max(curve.points[-1][0] for curve in curves))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def spread(heights: Sequence[float]) -> list[float]:
    """Heights of texts beside points, moved up where two would overlap."""
    apart = 0.07 * max(heights, default=0)
    moved = list(heights)
    order = sorted(range(len(moved)), key=moved.__getitem__)
    for lower, upper in pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] + apart)
    return moved


def draw_objects(axes: Any, objects: Objects, truth: Objects) -> None:
    """Boxes with their digits, coloured by whether they are right, and what was missed."""
    owners = match(objects, truth)
    for box, label, owner in zip(objects.boxes, objects.labels, owners, strict=True):
        draw_box(axes, box, str(label), WRONG if owner is None else RIGHT, "-")
    for i in set(range(len(truth.boxes))) - set(owners):
        draw_box(axes, truth.boxes[i], "", MISSED, ":")


def draw_box(axes: Any, box: Sequence[float], text: str, colour: str, line: str) -> None:
    """One box with a text at its upper left corner."""
    x, y, w, h = box
    # A pixel's centre is at a whole number, so its edge is half a pixel before it.
    outline = Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec=colour, ls=line, lw=1.4)
    axes.add_patch(outline)
    if text:
        inside = y < 10  # no room above the box
        back = {"facecolor": "black", "alpha": 0.6, "pad": 0.8, "linewidth": 0}
        look = {"color": colour, "fontsize": 8, "weight": "bold", "bbox": back}
        axes.text(max(x, 1), y, text, va="top" if inside else "bottom", clip_on=True, **look)


def match(objects: Objects, truth: Objects) -> list[int | None]:
    """Which true digit each object is, in order; None for a wrong digit or place, or a repeat."""
    owners: list[int | None] = []
    for box, label in zip(objects.boxes, objects.labels, strict=True):
        free = [i for i, other in enumerate(truth.labels) if other == label and i not in owners]
        best = max(free, key=lambda i: iou(box, truth.boxes[i]), default=None)
        fits = best is not None and iou(box, truth.boxes[best]) >= MATCH_IOU
        owners.append(best if fits else None)
    return owners
