"""Chooses the scores above which a teacher's detection is an object, or an uncertain one."""

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
LOW = 0.5  # a class's low score over its high one
MIN_SCORE = 0.05  # of a detection that is saved
MIN_IOU = 0.5  # of a true positive with its object
MAX_IMAGES = 500  # labelled images on which scores are chosen


@dataclass(frozen=True)
class Scores:
    """Minimal scores by class of an object, and of an uncertain detection."""

    high: Sequence[float]  # by class
    low: Sequence[float]

    def is_crowd(self, entry: Json) -> int | None:
        """Returns 0 for an object, 1 for an uncertain detection, None below both scores."""
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
    """Returns for each class the minimal score with the best F1.

    Args:
        detect: of ``labels.make_detect``.
        data: with labels.
        names: of the classes; one without objects in the data gets the default.
    """
    content = read_annotations("--val", data.annotations)
    images = list(zip(content["images"], data.files, strict=True))
    images = images[:: -(-len(images) // MAX_IMAGES)]
    classes = {x["id"]: names.index(x["name"]) for x in content["categories"] if x["name"] in names}
    ground_truth: dict[Any, list[Json]] = {x["id"]: [] for x, _ in images}
    for entry in content["annotations"]:
        if entry["image_id"] in ground_truth and entry["category_id"] in classes:
            ground_truth[entry["image_id"]].append(entry)
    matches: list[list[tuple[float, bool]]] = [[] for _ in names]
    counts = [0] * len(names)
    for image, file in progress(images, "choosing scores"):
        line = detect(file)
        for index in range(len(names)):
            objects = [x for x in ground_truth[image["id"]] if classes[x["category_id"]] == index]
            detections = [x for x in line.get("objects", []) if x["category_id"] == index]
            matches[index] += match(detections, objects)
            counts[index] += sum(not x.get("iscrowd", 0) for x in objects)
    high = [
        best_f1_score(scored, count) if count else DEFAULT_HIGH
        for scored, count in zip(matches, counts, strict=True)
    ]
    return Scores(high, [LOW * score for score in high])


def match(detections: Sequence[Json], objects: Sequence[Json]) -> list[tuple[float, bool]]:
    """Returns the score of each detection of a class, and whether it is a true positive.

    In order of their scores, detections are matched with the unmatched object of the highest IoU,
    or else with a crowd: these are left out.
    """
    boxes = [[x["bbox"] for x in entries] for entries in (detections, objects)]
    is_crowd = [x.get("iscrowd", 0) for x in objects]
    iou = mask_util.iou(*boxes, is_crowd)  # with a crowd the share of a detection's area
    scored, unmatched = [], [True] * len(objects)
    for i in sorted(range(len(detections)), key=lambda i: -detections[i]["score"]):
        candidates = [j for j in range(len(objects)) if unmatched[j] and iou[i][j] >= MIN_IOU]
        best = max(candidates, key=lambda j: (not is_crowd[j], iou[i][j]), default=None)
        if best is not None and is_crowd[best]:
            continue
        if best is not None:
            unmatched[best] = False
        scored.append((detections[i]["score"], best is not None))
    return scored


def best_f1_score(scored: Sequence[tuple[float, bool]], num_objects: int) -> float:
    """Returns the minimal score with the best F1; the default without a true positive.

    All scores down to the next detection's have the same F1: their middle is returned.

    Args:
        scored: score of each detection, and whether it is a true positive.
        num_objects: in the data, matched or not.
    """
    if not any(is_true for _, is_true in scored):
        return DEFAULT_HIGH
    scores, is_true = (np.array(x) for x in zip(*sorted(scored, reverse=True), strict=True))
    correct = np.cumsum(is_true)
    f1 = 2 * correct / (np.arange(1, len(scores) + 1) + num_objects)
    # Of equal scores only the last one counts all of them.
    f1[:-1][scores[:-1] == scores[1:]] = 0
    best = f1.argmax()
    return float((scores[best] + [*scores, MIN_SCORE][best + 1]) / 2)
