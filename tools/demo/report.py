"""The report of the detection demo: a table, a picture and a sentence on what they mean."""

import json
from pathlib import Path

import cv2
import numpy as np

from tools.demo.detection import DetectionDemo
from tools.demo.outcome import (
    Metric,
    describe_gain,
    format_table,
    learning_curves,
    read_outcomes,
    write_table,
)
from tools.demo.picture import Objects, Row, draw_picture
from tools.demo.scenes import split_paths

MIN_SCORE = 0.5  # of the detections in the picture
PICTURED = 3  # validation scenes: the first ones, not the prettiest
# Two seeds of one training differed by about this much on the blood cells; not measured on digits.
AP = Metric("AP", "AP", noise=1.0, method="FAM")


def write_report(demo: DetectionDemo) -> str:
    """Write ``report.md`` and ``report.png`` into the demo's folder; returns what to print."""
    outcomes = read_outcomes(demo)
    titles = [f"{o.title}, AP {o.scores[0]:.1f}" for o in outcomes]
    columns = ["ground truth", *titles]
    draw_picture(demo.output / "report.png", learning_curves(outcomes), read_rows(demo), columns)
    text = f"{format_table(demo, outcomes)}\n\n{describe_gain(AP, outcomes)}"
    picture = "Learning curves, and detections in validation scenes"
    return write_table(demo, "Demo: scenes of handwritten digits", text, picture)


def read_detections(path: Path) -> dict[int, Objects]:
    """What COCOEvaluator wrote, by image id, the certain detections only."""
    found: dict[int, Objects] = {}
    detections = [entry for entry in json.loads(path.read_text()) if entry["score"] >= MIN_SCORE]
    for entry in sorted(detections, key=lambda entry: -entry["score"]):
        objects = found.setdefault(entry["image_id"], Objects([], []))
        objects.boxes.append(entry["bbox"])
        objects.labels.append(entry["category_id"] - 1)
    return found


def read_rows(demo: DetectionDemo) -> list[Row]:
    """The first validation scenes, what is in them and what each model found."""
    paths = split_paths(demo.data, "val")
    coco = json.loads(paths.annotations.read_text())
    detections = [
        read_detections(demo.folder(stage) / "inference" / "coco_instances_results.json")
        for stage in demo.stages
    ]
    rows = []
    for image in coco["images"][:PICTURED]:
        own = [entry for entry in coco["annotations"] if entry["image_id"] == image["id"]]
        truth = Objects(
            [entry["bbox"] for entry in own], [entry["category_id"] - 1 for entry in own]
        )
        pixels = np.asarray(cv2.imread(str(paths.images / image["file_name"])), dtype=np.uint8)
        found = [by_image.get(image["id"], Objects([], [])) for by_image in detections]
        rows.append(Row(pixels[..., ::-1], truth, found))
    return rows
