"""Distil a small detector on two CPU cores and compare it with the same one trained alone.

Builds scenes of handwritten digits, trains a teacher, a student alone and the same student with FAM
(configs/Demo), and writes a table and a picture. Stopped, the same command resumes it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure  # not pyplot: that would look for a display
from matplotlib.patches import Rectangle

from tools.demo.outcome import Metric, Outcome, draw_curves
from tools.demo.scenes import build_dataset, iou, split_paths
from tools.demo.study import Demo

MIN_SCORE = 0.5  # of the detections in the picture
SCENES = 3  # first validation scenes in the picture
MATCH_IOU = 0.5  # minimal IoU of a right detection with its digit
RIGHT, WRONG, MISSED = "#1fe04a", "#ff3030", "#ffe119"
LEGEND = "Solid green: the right digit.  Solid red: a wrong one.  Dotted yellow: missed."


class Digit(NamedTuple):
    """A digit in a scene, or a detection of one."""

    box: Sequence[float]  # (x, y, w, h)
    label: int


def draw_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Draws learning curves, and below them the detections of each model in validation scenes."""
    titles = [f"{o.title}, AP {o.result.figures[METRIC.key]:.1f}" for o in outcomes]
    columns = ["ground truth", *titles]
    figure = Figure(figsize=(11, 3.6 + 1.85 * SCENES), layout="constrained")
    heights = [1.75, *[1] * SCENES]
    grid = figure.add_gridspec(1 + SCENES, len(columns), height_ratios=heights)
    axes = figure.add_subplot(grid[0, :])
    draw_curves(axes, outcomes, "AP on validation scenes")
    axes.set_title("Handwritten digits: the same student, alone and taught with FAM")
    scenes = read_scenes(path.parent / "data", [outcome.folder for outcome in outcomes])
    for row, (image, truth, *detections) in enumerate(scenes, start=1):
        for column, digits in enumerate([truth, *detections]):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image, interpolation="bicubic")
            axes.set_axis_off()
            draw_digits(axes, digits, truth)
            if row == 1:
                axes.set_title(columns[column], fontsize=11)
    figure.supxlabel(LEGEND, fontsize=10)
    figure.savefig(path, dpi=110)


def read_scenes(data: Path, folders: Sequence[Path]) -> Iterator[list[Any]]:
    """Yields validation scenes (H, W, 3) in RGB, their digits, and each model's detections."""
    annotation_file, image_folder = split_paths(data, "val")
    coco = json.loads(annotation_file.read_text())
    files = [folder / "inference" / "coco_instances_results.json" for folder in folders]
    entries = [coco["annotations"], *(json.loads(file.read_text()) for file in files)]
    for image in coco["images"][:SCENES]:
        pixels = np.asarray(cv2.imread(str(image_folder / image["file_name"])))[..., ::-1]
        yield [pixels, *(digits_of(image["id"], of_all) for of_all in entries)]


def digits_of(image_id: int, entries: Sequence[dict[str, Any]]) -> list[Digit]:
    """Returns an image's annotations, or its detections with a high score, highest first."""
    digits = [e for e in entries if e["image_id"] == image_id and e.get("score", 1.0) >= MIN_SCORE]
    digits.sort(key=lambda entry: -entry.get("score", 1.0))
    return [Digit(entry["bbox"], entry["category_id"] - 1) for entry in digits]


def draw_digits(axes: Any, detections: Sequence[Digit], truth: Sequence[Digit]) -> None:
    """Draws boxes with their digits, coloured by whether they are right, and missed digits."""
    matches = match(detections, truth)
    for digit, index in zip(detections, matches, strict=True):
        draw_box(axes, digit.box, str(digit.label), WRONG if index is None else RIGHT, "-")
    for i in set(range(len(truth))) - set(matches):
        draw_box(axes, truth[i].box, "", MISSED, ":")


def draw_box(axes: Any, box: Sequence[float], text: str, colour: str, line: str) -> None:
    """Draws one box with a text at its upper left corner."""
    x, y, w, h = box
    # A pixel's centre is at a whole number, so its edge is half a pixel before it.
    outline = Rectangle((x - 0.5, y - 0.5), w, h, fill=False, ec=colour, ls=line, lw=1.4)
    axes.add_patch(outline)
    if text:
        align = "top" if y < 10 else "bottom"  # inside the box if there is no room above
        back = {"facecolor": "black", "alpha": 0.6, "pad": 0.8, "linewidth": 0}
        style = {"color": colour, "fontsize": 8, "weight": "bold", "bbox": back}
        axes.text(max(x, 1), y, text, va=align, clip_on=True, **style)


def match(detections: Sequence[Digit], truth: Sequence[Digit]) -> list[int | None]:
    """Returns the index of each detection's digit; None for a wrong one or a duplicate."""
    matches: list[int | None] = []
    for box, label in detections:
        unmatched = [i for i, true in enumerate(truth) if true.label == label and i not in matches]
        best = max(unmatched, key=lambda i: iou(box, truth[i].box), default=None)
        is_match = best is not None and iou(box, truth[best].box) >= MATCH_IOU
        matches.append(best if is_match else None)
    return matches


# Two seeds of one training differed by about this much on the blood cells; not measured on digits.
METRIC = Metric("bbox/AP", "AP", "AP", noise=1.0, method="FAM")
DEMO = Demo(
    module="tools.demo",
    about=__doc__,
    study=Path(__file__).with_suffix(".yaml"),
    heading="Demo: scenes of handwritten digits",
    example="MODEL.DISTILLER.NAME LayerToLayerDistiller",
    metric=METRIC,
    columns={name: f"bbox/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
    draw=draw_report,
    picture="Learning curves, and detections in validation scenes",
    prepare=build_dataset,
)
