"""Fixtures of the tools' tests."""

import json

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> str:
    """DATASETS.COCO of six images with one bright box each."""
    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        image = rng.integers(0, 90, (64, 96, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(2, 30, 2))
        image[y : y + 24, x : x + 28] += 120
        cv2.imwrite(str(folder / f"{i}.png"), image)
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 96})
        box = {"bbox": [x, y, 28, 24], "area": 28 * 24, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 3, **box})
    categories = [{"id": i, "name": f"class{i}"} for i in (1, 2, 3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    entry = [str(folder / "all.json"), str(folder)]
    return str([["bccd_train", *entry], ["bccd_val", *entry]])
