"""What came out of the demo: a table, a picture and a sentence on what they mean."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from fam_det.demo.picture import Curve, Objects, Row, draw_picture
from fam_det.demo.pipeline import BASELINE, FAM, STAGES, TEACHER, Demo, Stage, read_state
from fam_det.demo.progress import evaluations, read_metrics
from fam_det.demo.scenes import split_paths

AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MIN_SCORE = 0.5  # of the detections in the picture
PICTURED = 3  # validation scenes: the first ones, not the prettiest
# Two seeds of one training differed by about this much on the blood cells; not measured on digits.
NOISE_AP = 1.0
STYLES: dict[str, dict[str, Any]] = {
    TEACHER.name: {"color": "#777777", "linestyle": "--"},
    BASELINE.name: {"color": "#e07000", "marker": "o", "markersize": 4},
    FAM.name: {"color": "#1f4fd0", "marker": "o", "markersize": 4},
}


class Outcome(NamedTuple):
    """A finished stage.

    Args:
        title: for people.
        parameters: of the detector at inference.
        aps: the last value of each of AP_COLUMNS, NaN where no object has that size.
        curve: (iterations, AP) of each evaluation.
        seconds: of training, without evaluations.
        found: detections by image id.
    """

    title: str
    parameters: int
    aps: list[float]
    curve: list[tuple[int, float]]
    seconds: float
    found: dict[int, Objects]


def write_report(demo: Demo) -> str:
    """Write ``report.md`` and ``report.png`` into the demo's folder; returns what to print."""
    outcomes = {stage: read_outcome(demo, stage) for stage in STAGES}
    curves = [Curve(o.title, o.curve, STYLES[stage.name]) for stage, o in outcomes.items()]
    titles = [f"{o.title}, AP {o.aps[0]:.1f}" for o in outcomes.values()]
    table, picture = demo.output / "report.md", demo.output / "report.png"
    rows = read_rows(demo, list(outcomes.values()))
    draw_picture(picture, curves, rows, ["ground truth", *titles])
    gain = describe_gain(outcomes[TEACHER], outcomes[BASELINE], outcomes[FAM])
    text = f"{format_table(list(outcomes.values()))}\n\n{gain}\n"
    image = f"![Learning curves, and detections in validation scenes]({picture.name})"
    table.write_text(f"# Demo: scenes of handwritten digits\n\n{text}\n{image}\n")
    return f"\n{text}\nTable:   {table}\nPicture: {picture}"


def read_outcome(demo: Demo, stage: Stage) -> Outcome:
    """What a finished stage has left in its folder."""
    folder, max_iter = demo.folder(stage), demo.max_iter(stage)
    metrics = read_metrics(folder / "metrics.json")
    evaluated = evaluations(metrics)
    # Detectron2 counts from 0, except in the line of the evaluation after the last iteration.
    curve = [(min(int(line["iteration"]) + 1, max_iter), line["bbox/AP"]) for line in evaluated]
    return Outcome(
        stage.title,
        read_state(folder)["result"]["parameters"],
        [evaluated[-1].get(f"bbox/{name}", math.nan) for name in AP_COLUMNS],
        curve,
        training_seconds(metrics),
        read_detections(folder / "inference" / "coco_instances_results.json"),
    )


def training_seconds(metrics: list[dict[str, float]]) -> float:
    """Time of all iterations: each line has the median one since the line before."""
    seconds, done = 0.0, -1.0
    for line in metrics:
        if "time" in line:
            seconds += (line["iteration"] - done) * line["time"]
            done = line["iteration"]
    return seconds


def read_detections(path: Path) -> dict[int, Objects]:
    """What COCOEvaluator wrote, by image id, the certain detections only."""
    found: dict[int, Objects] = {}
    detections = [entry for entry in json.loads(path.read_text()) if entry["score"] >= MIN_SCORE]
    for entry in sorted(detections, key=lambda entry: -entry["score"]):
        objects = found.setdefault(entry["image_id"], Objects([], []))
        objects.boxes.append(entry["bbox"])
        objects.labels.append(entry["category_id"] - 1)
    return found


def read_rows(demo: Demo, outcomes: Sequence[Outcome]) -> list[Row]:
    """The first validation scenes, what is in them and what each model found."""
    paths = split_paths(demo.data, "val")
    coco = json.loads(paths.annotations.read_text())
    rows = []
    for image in coco["images"][:PICTURED]:
        own = [entry for entry in coco["annotations"] if entry["image_id"] == image["id"]]
        truth = Objects(
            [entry["bbox"] for entry in own], [entry["category_id"] - 1 for entry in own]
        )
        pixels = np.asarray(cv2.imread(str(paths.images / image["file_name"])), dtype=np.uint8)
        found = [outcome.found.get(image["id"], Objects([], [])) for outcome in outcomes]
        rows.append(Row(pixels[..., ::-1], truth, found))
    return rows


def format_table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, a model a row."""
    columns = ["model", "parameters", *AP_COLUMNS, "training time"]
    rows = [
        [
            outcome.title,
            f"{outcome.parameters / 1e6:.2f} M",
            *("-" if math.isnan(ap) else f"{ap:.1f}" for ap in outcome.aps),
            tqdm.format_interval(outcome.seconds),
        ]
        for outcome in outcomes
    ]
    alignment = ["left", *["right"] * (len(columns) - 1)]
    table: str = tabulate(rows, columns, tablefmt="pipe", colalign=alignment, disable_numparse=True)
    return table


def describe_gain(teacher: Outcome, alone: Outcome, fam: Outcome) -> str:
    """What the table says about FAM, no better than it is."""
    gain = fam.aps[0] - alone.aps[0]
    gap = teacher.aps[0] - alone.aps[0]
    if gain > NOISE_AP:
        verdict = f"With FAM the same student gained {gain:.1f} AP"
        verdict += f", {gain / gap:.0%} of its distance to the teacher." if gap > gain else "."
    elif gain >= -NOISE_AP:
        verdict = f"With FAM the student's AP changed by {gain:+.1f}, no more than seeds differ:"
        verdict += " here FAM made no difference that could be told."
    else:
        verdict = f"FAM did not help on this seed: the student lost {-gain:.1f} AP."
    if gap <= 0:
        verdict += " The teacher was no better than the student alone, so it had little to teach."
    return f"{verdict} One seed and a short schedule: an example, not a measurement."
