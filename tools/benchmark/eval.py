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
    """Draws random boxes (x, y, w, h), and detections that lie near some of them."""
    rng = np.random.default_rng(seed)
    n = images * OBJECTS
    boxes = np.concatenate([rng.uniform(0, 400, (n, 2)), rng.uniform(8, 240, (n, 2))], axis=1)
    classes = rng.integers(1, CLASSES + 1, n)
    annotations = [
        {
            **{"id": i + 1, "image_id": 1 + i // OBJECTS, "category_id": kind},
            **{"bbox": box, "area": box[2] * box[3], "iscrowd": 0},
        }
        for i, (box, kind) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True))
    ]
    owners = np.repeat(np.arange(images), DETECTIONS)
    near = owners * OBJECTS + rng.integers(OBJECTS, size=len(owners))
    guesses = boxes[near] + rng.normal(0, 8, (len(near), 4))
    guesses[:, 2:] = guesses[:, 2:].clip(min=1.0)
    is_right = rng.random(len(near)) < 0.7
    kinds = np.where(is_right, classes[near], rng.integers(1, CLASSES + 1, len(near)))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i, "height": 640, "width": 640} for i in range(1, images + 1)],
            "annotations": annotations,
            "categories": [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)],
        }
        coco.createIndex()
        scores = rng.random(len(near))
        return coco, coco.loadRes(np.column_stack([owners + 1, guesses, scores, kinds]))


def figures(evaluation: type[Any], truth: COCO, found: COCO) -> list[float]:
    """Returns the twelve figures of a box evaluation."""
    with contextlib.redirect_stdout(io.StringIO()):
        run = evaluation(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(x) for x in run.stats[:12]]
