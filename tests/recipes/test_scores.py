"""The scores from which on detections are objects."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fam_det.recipes.data import read_coco
from fam_det.recipes.scores import DEFAULT_HIGH, best_f1_score, best_scores, match
from tests.recipes.conftest import content

Scored = list[tuple[float, bool]]


def entry(x: float, score: float = 1.0, **fields: Any) -> dict[str, Any]:
    return {"bbox": [x, 0.0, 10.0, 10.0], "score": score, **fields}


def f1(scored: Scored, num_objects: int, threshold: float) -> float:
    kept = [is_true for score, is_true in scored if score >= threshold]
    return 2 * sum(kept) / max(len(kept) + num_objects, 1)


def test_the_score_has_the_best_f1_of_all() -> None:
    generator = random.Random(0)
    for _ in range(50):
        scored = [
            (generator.choice((0.1, 0.3, 0.5, 0.7, 0.9)), generator.random() < 0.5)
            for _ in range(generator.randint(1, 12))
        ]
        count = sum(is_true for _, is_true in scored) + generator.randint(0, 4)
        found = best_f1_score(scored, count)
        if any(is_true for _, is_true in scored):
            best = max(f1(scored, count, score) for score, _ in scored)
            assert f1(scored, count, found) == best
        else:
            assert found == DEFAULT_HIGH
    # Both objects are found from 0.8 on, and nothing else down to 0.3: (0.8 + 0.3) / 2.
    assert best_f1_score([(0.9, True), (0.3, False), (0.8, True)], 2) == 0.55


def test_each_object_is_found_once_and_crowds_do_not_count() -> None:
    objects = [entry(0), entry(100), entry(200, iscrowd=1)]
    detections = [entry(1, 0.6), entry(0, 0.5), entry(2, 0.9), entry(50, 0.8), entry(201, 0.7)]
    assert match(detections, objects) == [(0.9, True), (0.8, False), (0.6, False), (0.5, False)]
    around = {"bbox": [0.0, 0.0, 99.0, 10.0], "iscrowd": 1}  # has all of what is at 1
    assert match([entry(1), entry(50)], [entry(0), around]) == [(1.0, True)]
    assert match([], objects) == []
    assert match(detections[:1], []) == [(0.6, False)]


def test_images_are_found_whose_names_the_file_quotes(
    write: Callable[..., tuple[str, str]],
) -> None:
    data = content(("a",), 2)
    for image in data["images"]:
        image["file_name"] = f"image {image['file_name']}"
    file, folder = write(data)
    quoted = json.dumps(data).replace("image ", "image%20")  # as Label Studio does
    Path(file).write_text(quoted)

    def detect(path: Path) -> dict[str, Any]:
        assert path.is_file()
        return {"objects": [{"bbox": [2, 2, 28, 24], "score": 0.8, "category_id": 0}]}

    scores = best_scores(detect, read_coco("--val", file, folder), ("a",))
    assert scores.high == pytest.approx([(0.8 + 0.05) / 2])
