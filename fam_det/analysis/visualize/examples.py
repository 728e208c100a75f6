"""Images of a data set with their ground truth, as a detector takes them."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image, transform_instance_annotations
from detectron2.data.transforms import ResizeTransform

WIDTH = 640  # least width in pixels of a picture: boxes need room for their names


@dataclass(frozen=True)
class Example:
    """An image.

    Attributes:
        name: its file.
        image: uint8 (H, W, 3), RGB; a small one is enlarged.
        record: of the data set, with annotations in pixels of ``image``.
        inputs: for a detector, resized; it answers in pixels of ``image``.
        metadata: class names and colours of the data set.
    """

    name: str
    image: NDArray[np.uint8]
    record: dict[str, Any]
    inputs: dict[str, Any]
    metadata: Any


def choose_examples(cfg: CfgNode, wanted: Sequence[str], count: int) -> list[Example]:
    """Images of the first test set.

    Args:
        cfg: of a run; gives the data set, the size and the channel order.
        wanted: ids or file names; empty for the ``count`` images with the most objects.
        count: how many when none are named.

    Raises:
        ValueError: an image that the data set has not, or no test set.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: is empty; expected a data set to take images from")
    name = cfg.DATASETS.TEST[0]
    records: list[dict[str, Any]] = DatasetCatalog.get(name)
    mapper = DatasetMapper(cfg, is_train=False)
    chosen = [_find(records, text, name) for text in wanted] if wanted else _fullest(records, count)
    hidden = set() if cfg.MODEL.MASK_ON else {"segmentation"}  # not what the detector is for
    return [_example(record, mapper, MetadataCatalog.get(name), hidden) for record in chosen]


def _find(records: Sequence[dict[str, Any]], text: str, data_set: str) -> dict[str, Any]:
    for record in records:
        if text in (str(record["image_id"]), Path(record["file_name"]).name, record["file_name"]):
            return record
    first = records[0]
    raise ValueError(
        f"--image: {data_set} has no {text!r}; expected an id such as {first['image_id']} or a "
        f"file name such as {Path(first['file_name']).name}"
    )


def _fullest(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """A few with most objects, which show most; the order of the data set among equals."""
    ranked = sorted(records, key=lambda record: -len(record.get("annotations", [])))
    return ranked[:count]


def _example(
    record: dict[str, Any], mapper: DatasetMapper, metadata: Any, hidden: set[str]
) -> Example:
    image = read_image(record["file_name"], format="RGB")
    height, width = image.shape[:2]
    times = -(-WIDTH // width)
    enlarge = ResizeTransform(height, width, times * height, times * width)
    size = (times * height, times * width)
    annotations = [
        transform_instance_annotations(
            {k: copy.deepcopy(v) for k, v in annotation.items() if k not in hidden}, enlarge, size
        )
        for annotation in record.get("annotations", [])
    ]
    return Example(
        Path(record["file_name"]).name,
        enlarge.apply_image(image),
        record | {"annotations": annotations},
        mapper(record) | {"height": size[0], "width": size[1]},
        metadata,
    )
