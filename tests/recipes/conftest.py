"""Data sets in COCO format whose images are black."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fam_det.recipes.data import CocoData, read_coco
from tests.tools.conftest import cells

__all__ = ["cells"]

POLYGON = [[2, 2, 30, 2, 30, 26]]


def content(names: tuple[str, ...], num_images: int, **fields: Any) -> dict[str, Any]:
    """A data set with one object an image, the classes in turn."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 64, "width": 96} for i in range(num_images)
    ]
    box = {"bbox": [2, 2, 28, 24], "area": 28 * 24, "iscrowd": 0, **fields}
    annotations = [
        {"id": i + 1, "image_id": i, "category_id": i % len(names) + 1, **box}
        for i in range(num_images)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], tuple[str, str]]:
    """Write a data set with black images; gives the paths of its file and its folder."""

    def write_files(data: dict[str, Any]) -> tuple[str, str]:
        (tmp_path / "all.json").write_text(json.dumps(data))
        for image in data["images"]:
            Image.new("1", (image["width"], image["height"])).save(tmp_path / image["file_name"])
        return str(tmp_path / "all.json"), str(tmp_path)

    return write_files


@pytest.fixture
def coco(write: Callable[..., tuple[str, str]]) -> Callable[..., CocoData]:
    """A data set as it is read, of class names."""

    def read(*names: str, num_images: int = 6, **fields: Any) -> CocoData:
        return read_coco("--train", *write(content(names, num_images, **fields)))

    return read
