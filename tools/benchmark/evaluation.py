"""Suite ``eval``: COCO's twelve figures of synthetic detections, against pycocotools."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from faster_coco_eval import COCOeval_faster  # type: ignore[import-untyped]
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tools.benchmark.rows import Case

IMAGES, OBJECTS, DETECTIONS, CLASSES = 5000, 7, 100, 80


def cases(device: str) -> Iterator[Case]:
    """Yields one case; the device does not matter."""
    truth, found = synthetic_results(IMAGES)
    yield Case(
        name=f"COCO evaluation, {IMAGES:,} images x {DETECTIONS} detections",
        project=lambda: figures(COCOeval_faster, truth, found),
        reference=lambda: figures(COCOeval, truth, found),
        time_goal=0.2,
        memory=False,
        pairs=(3, 5),
        warmup=0,
    )


def synthetic_results(images: int, seed: int = 0) -> tuple[COCO, COCO]:
    """Draws random boxes, and detections that lie near some of them."""
    generator = np.random.default_rng(seed)
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        size = generator.uniform(8, 240, (OBJECTS, 2))
        corner = generator.uniform(0, 400, (OBJECTS, 2))
        boxes = np.concatenate([corner, size], axis=1)  # xywh
        classes = generator.integers(1, CLASSES + 1, OBJECTS)
        for box, kind in zip(boxes.tolist(), classes.tolist(), strict=True):
            entry = {"id": len(truth) + 1, "image_id": image, "category_id": kind, "bbox": box}
            truth.append(entry | {"area": box[2] * box[3], "iscrowd": 0})
        near = generator.integers(OBJECTS, size=DETECTIONS)
        guesses = boxes[near] + generator.normal(0, 8, (DETECTIONS, 4))
        guesses[:, 2:] = guesses[:, 2:].clip(min=1.0)
        right = generator.random(DETECTIONS) < 0.7
        kinds = np.where(right, classes[near], generator.integers(1, CLASSES + 1, DETECTIONS))
        scores = generator.random(DETECTIONS)
        for guess, kind, score in zip(
            guesses.tolist(), kinds.tolist(), scores.tolist(), strict=True
        ):
            entry = {"image_id": image, "category_id": kind, "bbox": guess, "score": score}
            found.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "height": 640, "width": 640} for i in range(1, images + 1)],
            "annotations": truth,
            "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        }
        coco.createIndex()
        return coco, coco.loadRes(found)


def figures(evaluation: type[Any], truth: COCO, found: COCO) -> list[float]:
    """Returns the twelve figures of a box evaluation."""
    with contextlib.redirect_stdout(io.StringIO()):
        run = evaluation(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(x) for x in run.stats[:12]]
