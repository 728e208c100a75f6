"""From which score on a teacher's detection is an object, and from which it is uncertain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from fam_det.data.annotations import read_annotations
from fam_det.export.media import progress
from fam_det.recipes.data import CocoData

Json = dict[str, Any]
DEFAULT_HIGH = 0.5
LOW = 0.5  # of a class's high score
MIN_SCORE = 0.05  # of a detection that is kept
MIN_IOU = 0.5  # of a detection with the object that it finds
MAX_IMAGES = 500  # labelled, on which scores are chosen


@dataclass(frozen=True)
class Scores:
    """From which score on a detection of a class is an object, and from which it is uncertain."""

    high: Sequence[float]  # by class
    low: Sequence[float]

    def is_crowd(self, entry: Json) -> int | None:
        """Returns 0 for an object, 1 for an uncertain one, None for neither."""
        score, index = entry["score"], entry["category_id"]
        if score >= self.high[index]:
            return 0
        return 1 if score >= self.low[index] else None


def default_scores(
    classes: int, low: float = LOW * DEFAULT_HIGH, high: float = DEFAULT_HIGH
) -> Scores:
    """Returns the same scores for every class."""
    return Scores([high] * classes, [low] * classes)


def best_scores(detect: Callable[[Path], Json], data: CocoData, names: Sequence[str]) -> Scores:
    """Returns for each class the score from which on detections have the best F1.

    Args:
        detect: as of ``labels.detector_of``.
        data: with labels.
        names: of the classes; one without objects there has the default.
    """
    content = read_annotations("--val", data.annotations)
    step = max(len(content["images"]) // MAX_IMAGES, 1)
    numbers = {x["id"]: names.index(x["name"]) for x in content["categories"] if x["name"] in names}
    truth: dict[Any, list[Json]] = {x["id"]: [] for x in content["images"][::step]}
    for entry in content["annotations"]:
        if entry["image_id"] in truth and entry["category_id"] in numbers:
            truth[entry["image_id"]].append(entry)
    found: list[list[tuple[float, bool]]] = [[] for _ in names]
    counts = [0] * len(names)
    for image in progress(content["images"][::step], "choosing scores"):
        line = detect(Path(data.images) / image["file_name"])
        for index in range(len(names)):
            objects = [x for x in truth[image["id"]] if numbers[x["category_id"]] == index]
            own = [x for x in line.get("objects", []) if x["category_id"] == index]
            found[index] += match(own, objects)
            counts[index] += sum(not x.get("iscrowd", 0) for x in objects)
    high = [
        best_f1_score(scored, count) if count else DEFAULT_HIGH
        for scored, count in zip(found, counts, strict=True)
    ]
    return Scores(high, [LOW * score for score in high])


def match(detections: Sequence[Json], objects: Sequence[Json]) -> list[tuple[float, bool]]:
    """Returns the score of each detection of a class, and whether it finds an object.

    Each object is found once, by the highest score; what finds a crowd is left out.
    """
    boxes = [[x["bbox"] for x in entries] for entries in (detections, objects)]
    is_crowd = [x.get("iscrowd", 0) for x in objects]
    overlaps = mask_util.iou(*boxes, is_crowd)  # with a crowd the share of a detection's area
    scored, free = [], [True] * len(objects)
    for i in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        near = [j for j in range(len(objects)) if free[j] and overlaps[i][j] >= MIN_IOU]
        best = max(near, key=lambda j: overlaps[i][j], default=None)
        if best is not None and is_crowd[best]:
            continue
        if best is not None:
            free[best] = False
        scored.append((detections[i]["score"], best is not None))
    return scored


def best_f1_score(scored: Sequence[tuple[float, bool]], num_objects: int) -> float:
    """Returns the score from which on detections have the best F1; the default for none.

    Every score down to the next detection's has it; the middle is taken.

    Args:
        scored: score of each detection, and whether it finds an object.
        num_objects: found or not.
    """
    if not any(is_true for _, is_true in scored):
        return DEFAULT_HIGH
    scores, is_true = (np.array(x) for x in zip(*sorted(scored, reverse=True), strict=True))
    correct = np.cumsum(is_true)
    f1 = 2 * correct / (np.arange(1, len(scores) + 1) + num_objects)
    # Equal scores are taken together, at the last of them.
    f1[:-1][scores[:-1] == scores[1:]] = 0
    best = f1.argmax()
    return float((scores[best] + [*scores, MIN_SCORE][best + 1]) / 2)
