"""A user's own data in COCO format, registered from the config."""

import json
import logging
from pathlib import Path
from typing import Any

from fam_det.data.annotations import check_annotations

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

logger = logging.getLogger(__name__)

# Where each meta-architecture keeps its number of classes.
_NUM_CLASSES_NODE = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET", "FCOS": "FCOS"}


def register_coco_datasets(cfg: CfgNode) -> None:
    """Register every [name, annotation file, image folder] of ``cfg.DATASETS.COCO``.

    A name that is there already is left alone, so that two runs in one process can share data sets.

    Raises:
        ValueError: an entry of another form, a file that is missing or not as it should be, or a
            number of categories other than the model's; the message names the entry.
    """
    for entry in cfg.DATASETS.COCO:
        if len(entry) != 3 or not all(isinstance(part, str) for part in entry):
            raise ValueError(
                f"DATASETS.COCO: got {entry!r}, expected [name, annotation file, image folder]"
            )
        name, annotations, images = entry
        if not Path(images).is_dir():
            raise ValueError(f"DATASETS.COCO: {name}: the image folder {images!r} does not exist")
        content = _read(name, annotations)
        # An evaluation needs every image.
        spare = cfg.DATALOADER.MAX_UNREADABLE if name not in cfg.DATASETS.TEST else 0
        check_annotations(name, content, images, spare)
        _check_categories(cfg, name, content["categories"])
        if name not in DatasetCatalog.list():
            register_coco_instances(name, {}, annotations, images)


def _read(name: str, annotations: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(Path(annotations).read_text(encoding="utf-8"))
        content["images"], content["annotations"], content["categories"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"DATASETS.COCO: {name}: {annotations!r} is not a COCO annotation file "
            f"({type(error).__name__}: {error})"
        ) from error
    return content


def _check_categories(cfg: CfgNode, name: str, categories: list[dict[str, Any]]) -> None:
    """A class index past the model's last one would crash in the middle of a loss."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "DistilledDetector":
        architecture = cfg.MODEL.STUDENT.META_ARCHITECTURE
    node = _NUM_CLASSES_NODE.get(architecture)
    if (
        node is None
        or node not in cfg.MODEL
        or name not in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    ):
        return
    if len(categories) != cfg.MODEL[node].NUM_CLASSES:
        raise ValueError(
            f"MODEL.{node}.NUM_CLASSES: got {cfg.MODEL[node].NUM_CLASSES}, "
            f"expected {len(categories)}, the number of categories of {name}"
        )
