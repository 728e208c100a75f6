"""The fast evaluator gives the figures of pycocotools: boxes, masks and keypoints."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import default_config
from fam_det.training.evaluation import FastCOCOEvaluator, build_evaluator, faster_coco_eval

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, coco_evaluation

pytest.importorskip("faster_coco_eval")

SIDE, IMAGES, CLASSES = 160, 12, 3


def encoded_box(box: np.ndarray) -> dict[str, Any]:
    """Run-length code of a box (x, y, w, h) as a mask."""
    x, y, w, h = box.astype(int)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    code = rle.encode(mask)
    return {"size": code["size"], "counts": code["counts"].decode()}


def entry(image: int, kind: int, box: np.ndarray, points: np.ndarray) -> dict[str, Any]:
    keypoints = np.concatenate([points, np.full((17, 1), 2.0)], axis=1)
    return {
        "image_id": image,
        "category_id": kind,
        "bbox": box.tolist(),
        "segmentation": encoded_box(box),
        "keypoints": keypoints.flatten().tolist(),
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Ground truth as a registered data set, and detections near it or far from it."""
    rng = np.random.default_rng(0)
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, IMAGES + 1):
        for _ in range(5):
            corner, size = rng.uniform(0, 80, 2), rng.uniform(6, 70, 2)
            box = np.concatenate([corner, size])
            kind = int(rng.integers(1, CLASSES + 1))
            points = corner + rng.uniform(0, 1, (17, 2)) * size
            crowd = int(rng.random() < 0.1)
            truth.append(
                entry(image, kind, box, points)
                | {"id": len(truth) + 1, "area": float(size.prod()), "iscrowd": crowd}
                | {"num_keypoints": 17}
            )
            for spread in (1.0, 4.0, 15.0):
                guess = (box + rng.normal(0, spread, 4)).clip(min=2.0, max=80.0)
                near = points + rng.normal(0, spread, (17, 2))
                found.append(entry(image, kind - 1, guess, near) | {"score": float(rng.random())})
    path = tmp_path / "truth.json"
    images = [
        {"id": i, "file_name": f"{i}.png", "height": SIDE, "width": SIDE}
        for i in range(1, IMAGES + 1)
    ]
    categories = [{"id": i, "name": str(i)} for i in range(1, CLASSES + 1)]
    path.write_text(
        json.dumps({"info": {}, "images": images, "annotations": truth, "categories": categories})
    )
    name = f"evaluated_{tmp_path.name}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    DatasetCatalog.get(name)
    yield name, found
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def evaluated(evaluator: COCOEvaluator, found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    evaluator.reset()
    copies = json.loads(json.dumps(found))  # the evaluator renames categories in place
    evaluator._predictions = [{"image_id": 1, "instances": copies}]
    results: dict[str, dict[str, float]] = evaluator.evaluate()
    return results


def edit(name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the annotation file of a registered data set."""
    path = Path(MetadataCatalog.get(name).json_file)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_figures_equal_those_of_pycocotools(dataset: Any) -> None:
    name, found = dataset
    tasks = ("bbox", "segm", "keypoints")
    want = evaluated(COCOEvaluator(name, tasks, distributed=False, use_fast_impl=False), found)
    got = evaluated(FastCOCOEvaluator(name, tasks, distributed=False), found)
    assert list(got) == list(want) == sorted(tasks)
    for task in tasks:
        assert 5 < want[task]["AP"] < 95
        assert got[task] == pytest.approx(want[task], abs=1e-6, nan_ok=True)


def test_detections_per_image_bound_the_figures_as_in_detectron2(dataset: Any) -> None:
    name, found = dataset
    arguments: dict[str, Any] = {"distributed": False, "max_dets_per_image": 2}
    want = evaluated(COCOEvaluator(name, ("bbox",), use_fast_impl=False, **arguments), found)
    got = evaluated(FastCOCOEvaluator(name, ("bbox",), **arguments), found)
    assert got["bbox"] == pytest.approx(want["bbox"], nan_ok=True)


@pytest.mark.parametrize("first", [0, -7, 2**60, "uuid"])
def test_ids_that_do_not_start_at_1_change_no_figure(dataset: Any, first: int | str) -> None:
    """pycocotools takes an object with the id 0 for one that nothing has found."""
    name, found = dataset
    want = evaluated(FastCOCOEvaluator(name, ("bbox",), distributed=False), found)

    def change(content: dict[str, Any]) -> None:
        for number, annotation in enumerate(content["annotations"]):
            annotation["id"] = first + number if isinstance(first, int) else f"{first}-{number}"

    edit(name, change)
    got = evaluated(FastCOCOEvaluator(name, ("bbox",), distributed=False), found)
    assert got["bbox"] == pytest.approx(want["bbox"], nan_ok=True)


@pytest.mark.parametrize("segmentation", [None, "runs", "polygon"])
def test_areas_that_are_missing_are_those_of_the_masks_or_boxes(
    dataset: Any, segmentation: str | None
) -> None:
    name, found = dataset

    def change(content: dict[str, Any], *, with_area: bool) -> None:
        for x in content["annotations"]:
            left, top, width, height = x["bbox"]
            x["area"] = width * height if segmentation is None else int(width) * int(height)
            if segmentation is None:
                x.pop("segmentation", None)
            if segmentation == "polygon":
                right, low = int(left) + int(width), int(top) + int(height)
                corners = [int(left), int(top), right, int(top), right, low, int(left), low]
                x["segmentation"] = [corners]
            if not with_area:
                x["area"] = ("31", 0, float("nan"), None)[x["id"] % 4]

    edit(name, partial(change, with_area=True))
    want = evaluated(COCOEvaluator(name, ("bbox",), distributed=False, use_fast_impl=False), found)
    assert min(want["bbox"]["APs"], want["bbox"]["APm"]) > 5
    edit(name, partial(change, with_area=False))
    got = evaluated(FastCOCOEvaluator(name, ("bbox",), distributed=False), found)
    assert got["bbox"] == pytest.approx(want["bbox"], nan_ok=True)


def test_the_sigmas_of_the_config_count(dataset: Any) -> None:
    name, found = dataset
    sigmas = [0.01, *[0.05] * 16]
    want = evaluated(
        COCOEvaluator(name, ("keypoints",), distributed=False, kpt_oks_sigmas=sigmas), found
    )
    cfg = default_config()
    cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    evaluator = build_evaluator(cfg, name)
    evaluator._output_dir = None
    assert evaluated(evaluator, found)["keypoints"] == pytest.approx(want["keypoints"], nan_ok=True)


@pytest.mark.parametrize("kind", ["images", "categories"])
def test_long_ids_change_no_figure(dataset: Any, kind: str) -> None:
    """Above 2^53 not every whole number is a float64."""
    name, found = dataset
    tasks = ("bbox", "segm")
    want = evaluated(COCOEvaluator(name, tasks, distributed=False, use_fast_impl=False), found)
    key = {"images": "image_id", "categories": "category_id"}[kind]

    def change(content: dict[str, Any]) -> None:
        for x in content[kind]:
            x["id"] += 2**60
        for x in content["annotations"]:
            x[key] += 2**60

    edit(name, change)
    if kind == "images":
        found = [x | {"image_id": x["image_id"] + 2**60} for x in found]
    else:
        ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        ids |= {number + 2**60: ids.pop(number) for number in list(ids)}
    got = evaluated(FastCOCOEvaluator(name, tasks, distributed=False), found)
    for task in tasks:
        assert got[task] == pytest.approx(want[task], nan_ok=True)


def test_no_detections_give_figures_as_in_detectron2(dataset: Any) -> None:
    name, _ = dataset
    got = evaluated(FastCOCOEvaluator(name, ("bbox",), distributed=False), [])
    assert all(np.isnan(value) for value in got["bbox"].values())


def test_detectron2_itself_is_left_as_it_was() -> None:
    before = coco_evaluation.COCOeval_opt
    with pytest.raises(ZeroDivisionError), faster_coco_eval():
        raise ZeroDivisionError
    assert coco_evaluation.COCOeval_opt is before
