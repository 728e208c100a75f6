"""A user's own data in COCO format, registered from the config, and checked against it."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fam_det.data.annotations import Json, read_annotations, read_dataset
from fam_det.data.audit import class_difference, class_names, find_shared_images, report
from fam_det.data.data_warnings import forget_warnings

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

# Where each meta-architecture keeps its number of classes.
_CLASS_NODES = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET", "FCOS": "FCOS"}


def register_coco_datasets(cfg: CfgNode) -> None:
    """Registers every [name, annotation file, image folder] of ``cfg.DATASETS.COCO``.

    A name that is there already stays, so that two runs in one process can share data sets. A
    ValueError names an entry of another form, or one that does not fit the config or another data
    set of it.
    """
    forget_warnings()
    files = {entry[0]: _register(cfg, *entry) for entry in _entries(cfg)}
    check_registered(cfg)
    train = [file for name in cfg.DATASETS.TRAIN for file in files.get(name, [])]
    for name in cfg.DATASETS.TEST:
        report(f"DATASETS.TEST: {name}", find_shared_images(train, files.get(name, [])))


def _register(cfg: CfgNode, name: str, annotations: str, images: str) -> list[Path]:
    """Checks and registers an entry; returns its images."""
    content, is_plain = _check_entry(cfg, name, annotations, images)
    if name not in DatasetCatalog.list():
        metadata = {"thing_classes": list(class_names(content["categories"]))}
        file = annotations if is_plain else _write_plain(content)
        register_coco_instances(name, metadata, file, images)
    return [Path(images) / image["file_name"] for image in content["images"]]


def _write_plain(content: Json) -> str:
    """Writes an annotation file as Detectron2 reads it, for as long as this process runs."""
    folder = tempfile.mkdtemp(prefix="fam_det_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = Path(folder) / "annotations.json"
    file.write_text(json.dumps(content))
    return str(file)


def _entries(cfg: CfgNode) -> Iterator[tuple[str, str, str]]:
    for entry in cfg.DATASETS.COCO:
        parts = entry if isinstance(entry, list | tuple) else ()
        if len(parts) != 3 or not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"DATASETS.COCO: got {entry!r}, expected [name, annotation file, image folder]"
            )
        name, annotations, images = parts
        yield name, annotations, images


def check_registered(cfg: CfgNode) -> None:
    """Checks the classes of all data sets that say them, Detectron2's own and others.

    Raises a ValueError where they are not as many as the model's, or not the same, in one order.
    """
    known: dict[str, list[str]] = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name in DatasetCatalog.list() and (classes := _registered_classes(name)):
            _check_class_count(cfg, name, len(classes))
            known[name] = classes
    for name, classes in known.items():
        first = next(iter(known))
        if difference := class_difference(classes, known[first]):
            raise ValueError(
                f"DATASETS: the classes of {name} are not those of {first}: {difference}; give "
                "both one list of categories, in the same order of ids"
            )


def _registered_classes(name: str) -> list[str]:
    """Returns the classes of a data set, from its file where it is not loaded yet."""
    metadata = MetadataCatalog.get(name)
    if classes := metadata.get("thing_classes"):
        return list(classes)
    file = metadata.get("json_file")
    return [x["name"] for x in _categories_of(file)] if file else []


def find_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    """Returns ``id`` and ``name`` of the model's classes, by index, as its data sets have them.

    Empty where no annotation file can be read and Detectron2 does not know the data set, or where
    their number is not the model's.
    """
    files = {name: annotations for name, annotations, _ in _entries(cfg)}
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        found = _categories_of(files[name]) if name in files else _registered_categories(name)
        if found and count_classes(cfg) in (None, len(found)):
            return found
    return []


def _categories_of(file: str) -> list[dict[str, Any]]:
    try:
        categories = read_annotations("DATASETS.COCO", file)["categories"]
        return [
            {"id": x["id"], "name": x["name"]} for x in sorted(categories, key=lambda x: x["id"])
        ]
    except (KeyError, TypeError, ValueError):  # moved or changed since the training
        return []


def _registered_categories(name: str) -> list[dict[str, Any]]:
    metadata = MetadataCatalog.get(name)
    names = metadata.get("thing_classes") or []
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {i: i for i in range(len(names))}
    return [
        {"id": number, "name": names[i]} for number, i in sorted(ids.items(), key=lambda x: x[1])
    ]


def count_classes(cfg: CfgNode) -> int | None:
    """Returns the number of the model's classes, None for an unknown meta-architecture."""
    node = _class_node(cfg)
    return cfg.MODEL[node].NUM_CLASSES if node else None


def _class_node(cfg: CfgNode) -> str | None:
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "DistilledDetector":
        architecture = cfg.MODEL.STUDENT.META_ARCHITECTURE
    node = _CLASS_NODES.get(architecture)
    return node if node in cfg.MODEL else None


def _check_entry(cfg: CfgNode, name: str, annotations: str, images: str) -> tuple[Json, bool]:
    is_trained, is_tested = name in cfg.DATASETS.TRAIN, name in cfg.DATASETS.TEST
    strict = cfg.DATASETS.STRICT
    content, is_plain = read_dataset(
        f"DATASETS.COCO: {name}",
        annotations,
        images,
        # An evaluation needs every image.
        max_missing=0 if strict or is_tested else cfg.DATALOADER.MAX_UNREADABLE,
        follow_links=cfg.DATASETS.FOLLOW_LINKS,
        strict=strict,
        allow_odd_boxes=cfg.DATASETS.ALLOW_ODD_BOXES,
    )
    if is_trained or is_tested:
        _check_class_count(cfg, name, len(content["categories"]))
        where = f"DATASETS.COCO: {name}: {annotations}"
        _check_objects(cfg, where, content["annotations"], is_trained=is_trained)
    return content, is_plain


def _check_class_count(cfg: CfgNode, name: str, classes: int) -> None:
    """Raises a ValueError for a number of classes other than the model's.

    A class index past the model's last one would crash in the middle of a loss.
    """
    if count_classes(cfg) not in (None, classes):
        raise ValueError(
            f"MODEL.{_class_node(cfg)}.NUM_CLASSES: got {count_classes(cfg)}, "
            f"expected {classes}, the number of categories of {name}"
        )


def _check_objects(
    cfg: CfgNode, where: str, annotations: list[dict[str, Any]], *, is_trained: bool
) -> None:
    objects = [entry for entry in annotations if not entry.get("iscrowd", 0)]
    if is_trained and not objects:
        raise ValueError(f"{where}: has no annotations, expected boxes of objects; label some")
    if is_trained and cfg.MODEL.KEYPOINT_ON:
        raise ValueError(
            f"MODEL.KEYPOINT_ON: got True, but {where} gives its keypoints no names; register the "
            "data set in Python, with keypoint_names and keypoint_flip_map"
        )
    for entry in objects if cfg.MODEL.MASK_ON else ():
        mask = entry.get("segmentation")
        if not mask:
            raise ValueError(
                f"{where}: annotation {entry['id']} has no segmentation, which MODEL.MASK_ON needs"
            )
        if is_trained and isinstance(mask, dict) and cfg.INPUT.MASK_FORMAT != "bitmask":
            raise ValueError(
                f"INPUT.MASK_FORMAT: got {cfg.INPUT.MASK_FORMAT!r}, expected 'bitmask': annotation "
                f"{entry['id']} of {where} is run-length encoded"
            )
