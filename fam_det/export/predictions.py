"""Writes detections to a file in COCO's format, one image at a time."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import pycocotools.mask as mask_util

from fam_det.files.atomic_write import atomic_write

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances


class PredictionFile:
    """A data set in COCO's format, whose objects have a score.

    Ids count from 1; ``categories`` have ``id`` and ``name`` by class index. It keeps only the
    numbers of images and objects in memory.
    """

    def __init__(
        self, annotations: IO[str], images: IO[str], categories: Sequence[dict[str, Any]]
    ) -> None:
        self.annotations = annotations
        self.images = images
        self.categories = categories
        self.num_images = self.num_objects = 0

    def add(self, image: dict[str, Any], detections: Instances) -> None:
        """Writes an image with its detections, as Detectron2's evaluation writes them.

        ``image`` has at least ``file_name``, ``height`` and ``width``.
        """
        self.add_entries(image, instances_to_entries(detections))

    def add_entries(self, image: dict[str, Any], entries: Sequence[dict[str, Any]]) -> None:
        """Writes an image with entries of ``instances_to_entries``."""
        self.num_images += 1
        _write_item(self.images, {"id": self.num_images, **image}, self.num_images)
        for detection in entries:
            self.num_objects += 1
            category = self.categories[detection["category_id"]]["id"]
            *_, width, height = detection["bbox"]
            mask = detection.get("segmentation")
            area = float(width * height if mask is None else mask_util.area(mask))
            entry = {"id": self.num_objects, "image_id": self.num_images, "area": area}
            entry |= {"iscrowd": 0, **detection, "category_id": category}
            _write_item(self.annotations, entry, self.num_objects)


def instances_to_entries(detections: Instances) -> list[dict[str, Any]]:
    """Returns detections as Detectron2's evaluation writes them, ``category_id`` a class index."""
    entries: list[dict[str, Any]] = instances_to_coco_json(detections, 0)
    for entry in entries:
        del entry["image_id"]
    return entries


def _write_item(file: IO[str], item: dict[str, Any], number: int) -> None:
    file.write(f"{',' if number > 1 else ''}\n{json.dumps(item)}")


@contextmanager
def open_predictions(
    path: Path, info: dict[str, Any], categories: Sequence[dict[str, Any]]
) -> Iterator[PredictionFile]:
    """Yields a file that replaces ``path`` at the end of the context, unless it raises."""
    with atomic_write(path) as temporary, TemporaryFile("w+", encoding="utf-8") as images:
        with temporary.open("w", encoding="utf-8") as file:
            head = json.dumps({"info": info, "categories": list(categories)})
            file.write(f'{head[:-1]}, "annotations": [')
            yield PredictionFile(file, images, categories)
            file.write('\n], "images": [')
            images.seek(0)
            shutil.copyfileobj(images, file)
            file.write("\n]}\n")
