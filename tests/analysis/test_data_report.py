"""A data set in lines and a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fam_det.analysis.data_report import describe, describe_anchors, fit, save_picture
from fam_det.config import default_config

from detectron2.config import CfgNode


def content(*sizes: tuple[float, float]) -> dict[str, Any]:
    """An image of 200 x 100 for each object, of a width and height, and one without."""
    images = [
        {"id": i, "file_name": f"{i}.png", "width": 200, "height": 100}
        for i in range(len(sizes) + 1)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1 + (i > 0), "bbox": [10, 20, *size]}
        for i, size in enumerate(sizes)
    ]
    categories = [{"id": 2, "name": "nut"}, {"id": 1, "name": "bolt"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def config(*sizes: float, ratios: tuple[float, ...] = (1.0,)) -> CfgNode:
    """A level for each size; images are enlarged twice."""
    cfg = default_config()
    cfg.MODEL.RPN.IN_FEATURES = [f"p{i + 2}" for i in range(len(sizes))]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in sizes]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(ratios)]
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 200, 400
    return cfg


def test_what_is_described() -> None:
    rows = {row.name: row.found for row in describe(content((16, 4), (30, 30), (9, 1)))}
    assert rows["images"] == "4, 1 of them without objects"
    assert rows["objects"] == "3: bolt 1, nut 2"  # in the order of ids
    assert rows["box sizes"].startswith("smallest 3, tenth 4, median 8, nine tenths 25.6, largest")


def test_boxes_that_no_anchor_fits_are_counted_and_anchors_proposed() -> None:
    """By hand: a square of 10, of 20 in the resized image, has IoU 400 / 1600 with one of 40."""
    data = content((10, 10), (10, 10), (10, 10), (20, 20))
    rows = {row.name: row for row in describe_anchors(data, config(40, 80))}
    assert rows["levels"].found.endswith(": p2 100%, p3 0%")
    assert rows["anchors"].found == "75.0% of the boxes fit none (IoU under 0.3 wherever it lies)"
    assert 'SIZES "[[20.0], [37.' in rows["anchors"].advice
    assert rows["anchors"].advice.endswith(": 0.0%")
    rows = {row.name: row for row in describe_anchors(data, config(20, 40))}
    assert rows["anchors"].found.startswith("0.0% of") and not rows["anchors"].advice


def test_the_fit_is_the_iou_with_the_nearest_shape() -> None:
    best, level = fit(np.array([[20.0, 40.0], [64.0, 32.0]]), config(20, 40, ratios=(1.0, 2.0)), 2)
    # anchors of ratio 2 are 14.1 x 28.3 and 28.3 x 56.6; the square of 40 covers 32 x 40 of it
    expected = [800 / (20 * 2**0.5 * 40 * 2**0.5), 40 * 32 / (64 * 32 + 1600 - 40 * 32)]
    np.testing.assert_allclose(best, expected, rtol=1e-5)
    assert level.tolist() == [1, 1]


@pytest.mark.parametrize("broken", [0, 2])
def test_the_picture_has_the_boxes(broken: int, tmp_path: Path) -> None:
    data = content(*[(100, 50)] * 4)
    for i in range(4):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{i}.png")
    for i in range(broken):
        (tmp_path / f"{i}.png").write_text("no image")
    file = tmp_path / "new" / "picture.png"
    assert save_picture(data, tmp_path, file) == 4 - broken
    picture = np.asarray(Image.open(file)).astype(int)
    assert picture.shape == (3 * 360, 3 * 480, 3)
    assert (picture[300:360] == 255).all()  # an image of 480 x 240 leaves the rest white
    inner = picture[:240, :480].max(2)
    assert inner[48 + 60, 24] > 100 and inner[230, 400] == 0  # the left side, and no box
