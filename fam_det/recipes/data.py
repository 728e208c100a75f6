"""Reads the facts about a data set in COCO format from which a config is derived."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from fam_det.data.annotations import (
    has_segmentation,
    is_labelled_by_teacher,
    is_line,
    read_dataset,
)
from fam_det.data.audit import class_difference, class_names, list_names


@dataclass(frozen=True)
class CocoData:
    """A data set in COCO format."""

    annotations: str  # path of the JSON file
    images: str  # path of the image folder
    class_names: tuple[str, ...]  # in the order of their ids, which is that of the model's classes
    num_images: int
    num_trained: int  # images with an object that is no crowd; Detectron2 trains on these alone
    has_masks: bool  # every object has one, and some are more than their boxes
    has_bitmasks: bool  # some are run-length encoded
    size: tuple[int, int]  # median (H, W) of the images
    most_objects: int = 0  # of an image; 0 without labels
    is_labelled_by_teacher: bool = False  # see fam_det.recipes.labels
    files: tuple[Path, ...] = field(default=(), compare=False, repr=False)  # of the images


def read_coco(
    flag: str,
    annotations: str,
    images: str,
    *,
    has_labels: bool = True,
    allow_odd_boxes: bool = False,
) -> CocoData:
    """Reads a data set, and checks for mistakes that would end the training later.

    An error starts with the flag of the command line. Without labels all images are trained on.
    """
    # Links are followed here: the training checks them.
    content, _ = read_dataset(
        *(flag, annotations, images),
        is_trained=has_labels,
        needs_all=flag == "--val",
        follow_links=True,
        allow_odd_boxes=allow_odd_boxes,
    )
    objects = [x for x in content["annotations"] if not x.get("iscrowd", 0)]
    counts = Counter(x["image_id"] for x in objects)
    return CocoData(
        annotations=annotations,
        images=images,
        class_names=class_names(content["categories"]),
        num_images=len(content["images"]),
        num_trained=len(counts if has_labels else content["images"]),
        has_masks=all(map(has_segmentation, objects))
        and not (objects and all(map(_is_box, objects))),
        has_bitmasks=any(isinstance(x.get("segmentation"), dict) for x in objects),
        size=(_median(content["images"], "height"), _median(content["images"], "width")),
        most_objects=max(counts.values(), default=0),
        is_labelled_by_teacher=is_labelled_by_teacher(content),
        files=tuple(Path(images) / x["file_name"] for x in content["images"]),
    )


def _is_box(entry: Mapping[str, Any]) -> bool:
    """Returns whether the mask of an object is only its box, as some converters write it.

    Up to one pixel: converters round differently, or exclude the last pixel. Some write two
    corners alone.
    """
    if is_line(entry):
        return True
    mask, (x, y, width, height) = entry["segmentation"], entry["bbox"]
    if not isinstance(mask, list) or len(mask) != 1 or len(mask[0]) not in (8, 10):
        return False
    points = list(zip(mask[0][::2], mask[0][1::2], strict=True))
    corners = itertools.product((x, x + width), (y, y + height))
    return all(any(max(abs(a - c), abs(b - d)) <= 1 for a, b in points) for c, d in corners)


def _median(images: Sequence[Mapping[str, Any]], side: str) -> int:
    return round(median(x[side] for x in images))


def check_same_classes(train: CocoData, val: CocoData) -> None:
    """Raises a ValueError unless both have the same classes in the same order."""
    if difference := class_difference(val.class_names, train.class_names):
        raise ValueError(
            f"--val: {val.annotations}: has the categories {list_names(val.class_names)}, but "
            f"--train {train.annotations} has {list_names(train.class_names)} ({difference}); give "
            "both files one list of categories, in the same order of ids"
        )
