"""Registers a user's data in COCO format from the config, and checks it against the config."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fam_det.config import detector_architecture
from fam_det.data.annotations import (
    Json,
    has_segmentation,
    is_line,
    read_annotations,
    read_dataset,
)
from fam_det.data.audit import (
    class_difference,
    class_names,
    find_shared_images,
    forget_warnings,
    report,
)
from fam_det.files import one_line, short

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

# Config node with the number of classes, by meta-architecture.
_CLASS_NODES = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET", "FCOS": "FCOS"}
COCO_KEYPOINTS = 17
IN_YAML = {key: f"DATASETS.{key}" for key in ("TRAIN", "TEST", "COCO")}
# Files in the form that Detectron2 reads, by annotation file, image folder and MODEL.MASK_ON.
_PLAIN: dict[tuple[str, str, bool], str] = {}


def register_coco_datasets(cfg: CfgNode, *, tested: Collection[str] | None = None) -> None:
    """Registers every [name, annotation file, image folder] of ``cfg.DATASETS.COCO``.

    Replaces names that are registered already: another config of this process may have used them,
    or their files have changed. A ValueError names an invalid entry, or one that does not fit the
    config or another of its data sets. With ``tested`` only data sets of these names are read, to
    evaluate on.
    """
    forget_warnings()
    files: dict[str, list[Path]] = {}
    for name, *source in _entries(cfg):
        metadata: dict[str, Any] = {}
        if tested is None or name in tested:
            labelled = {*cfg.DATASETS.TRAIN} - {*cfg.DATASETS.UNLABELLED}
            is_trained = tested is None and name in labelled
            content, is_plain = _check_entry(cfg, name, *source, is_trained=is_trained)
            # Detectron2 drops a box with a polygon of two points, which matters to masks alone.
            lines = [] if cfg.MODEL.MASK_ON else [x for x in content["annotations"] if is_line(x)]
            for entry in lines:
                del entry["segmentation"]
            _PLAIN.pop(key := (*source, cfg.MODEL.MASK_ON), None)
            if lines or not is_plain:
                _PLAIN[key] = _write_plain(content)
            files[name] = [Path(source[1]) / image["file_name"] for image in content["images"]]
            metadata["thing_classes"] = list(class_names(content["categories"]))
            del content, lines  # frees memory before the next is read
        _register(name, metadata, *_source(cfg, *source))
    check_registered(cfg, eval_only=tested is not None)
    train = [file for name in cfg.DATASETS.TRAIN for file in files.get(name, [])]
    for name in cfg.DATASETS.TEST:
        report(f"DATASETS.TEST: {name}", find_shared_images(train, files.get(name, [])))


def use_coco_datasets(cfg: CfgNode) -> None:
    """Registers those again whose names another config of this process has taken since."""
    for name, annotations, images in _entries(cfg):
        metadata = MetadataCatalog.get(name)
        source = _source(cfg, annotations, images)
        if (metadata.get("json_file"), metadata.get("image_root")) != source:
            _register(name, {}, *source)


def _source(cfg: CfgNode, annotations: str, images: str) -> tuple[str, str]:
    """Returns the file that Detectron2 reads, and the image folder."""
    return _PLAIN.get((annotations, images, cfg.MODEL.MASK_ON), annotations), images


def _register(name: str, metadata: dict[str, Any], file: str, images: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    register_coco_instances(name, metadata, file, images)


def _write_plain(content: Json) -> str:
    """Writes an annotation file that Detectron2 can read; it is deleted at exit."""
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


def check_registered(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Checks the classes of all data sets that have names for them, Detectron2's included.

    Raises a ValueError if their number is not the model's, if they or their order differ, or if
    ``TEST.KEYPOINT_OKS_SIGMAS`` is not one a keypoint. With ``eval_only`` ``DATASETS.TRAIN`` is
    ignored.
    """
    sigmas, keypoints = cfg.TEST.KEYPOINT_OKS_SIGMAS, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    is_needed = cfg.MODEL.KEYPOINT_ON and bool(cfg.DATASETS.TEST)
    if is_needed and len(sigmas) != keypoints and (sigmas or keypoints != COCO_KEYPOINTS):
        raise ValueError(
            f"TEST.KEYPOINT_OKS_SIGMAS: got {len(sigmas)} numbers, expected {keypoints}, one a "
            f"keypoint; by default those of COCO's {COCO_KEYPOINTS} keypoints are used"
        )
    known: dict[str, list[str]] = {}
    for name in (*(() if eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST):
        if name not in DatasetCatalog.list():
            continue
        metadata = MetadataCatalog.get(name)  # has a file's classes once it is loaded
        file = metadata.get("json_file", "")
        if classes := metadata.get("thing_classes") or [x["name"] for x in _categories_of(file)]:
            _check_class_count(cfg, name, len(classes))
            known[name] = classes
    for name, classes in known.items():
        first = next(iter(known))
        if difference := class_difference(classes, known[first]):
            raise ValueError(
                f"DATASETS: the classes of {name} are not those of {first}: {difference}; give "
                "both one list of categories, in the same order of ids"
            )


def check_known(
    cfg: CfgNode, *, eval_only: bool = False, where: Mapping[str, str] = IN_YAML
) -> None:
    """Raises a ValueError that names a data set which is not registered.

    ``where`` maps "TRAIN", "TEST" and "COCO" to the keys in a user's config.
    """
    known = DatasetCatalog.list()
    for key in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if name not in known:
                close = ", ".join(get_close_matches(str(name), known, n=3))
                raise ValueError(
                    f"{where[key]}: got {name!r}, which is not registered; name it in "
                    f"{where['COCO']}" + f", or did you mean {close}?" * bool(close)
                )


def load_test_sets(cfg: CfgNode, where: Mapping[str, str] = IN_YAML) -> None:
    """Raises a ValueError for an empty or broken data set in ``DATASETS.TEST``.

    Skips those of ``DATASETS.COCO``, which are checked when they are registered.
    """
    checked = {name for name, *_ in _entries(cfg)}
    for name in cfg.DATASETS.TEST:
        if name in checked:
            continue
        try:
            records = DatasetCatalog.get(name)
        except Exception as error:  # a user's own function may raise any
            reason = f"cannot be loaded: {one_line(error)}"
            raise ValueError(f"{where['TEST']}: {name} {reason}") from error
        if isinstance(records, list) and not records:
            raise ValueError(f"{where['TEST']}: {name} has no images")


def check_class_indices(cfg: CfgNode, records: Iterable[dict[str, Any]]) -> None:
    """Raises a ValueError for an object whose class the model lacks.

    A user's own function may return records without names of classes. An index past the last class
    would crash in the middle of a loss.
    """
    classes = count_classes(cfg)
    if classes is None:
        return
    for record in records:
        for entry in record.get("annotations", ()):
            if not 0 <= entry.get("category_id", 0) < classes:
                raise ValueError(
                    f"DATASETS.TRAIN: {record.get('file_name')}: category_id: got "
                    f"{short(entry['category_id'])}, expected 0 to {classes - 1}: "
                    f"MODEL.{_class_node(cfg)}.NUM_CLASSES is {classes}"
                )


def find_categories(cfg: CfgNode) -> list[dict[str, Any]]:
    """Returns ``id`` and ``name`` of the model's classes, by index, from its data sets.

    Empty if no annotation file can be read and Detectron2 does not know the data set, or if their
    number is not the model's.
    """
    files = {name: annotations for name, annotations, _ in _entries(cfg)}
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        categories = _categories_of(files[name]) if name in files else _registered_categories(name)
        if categories and count_classes(cfg) in (None, len(categories)):
            return categories
    return []


def _categories_of(file: str) -> list[dict[str, Any]]:
    try:
        categories = read_annotations("DATASETS.COCO", file, is_trained=False)["categories"]
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
    node = _CLASS_NODES.get(detector_architecture(cfg))
    return node if node in cfg.MODEL else None


def _check_entry(
    cfg: CfgNode, name: str, annotations: str, images: str, *, is_trained: bool
) -> tuple[Json, bool]:
    is_tested, strict = name in cfg.DATASETS.TEST, cfg.DATASETS.STRICT
    # An evaluation needs every image.
    max_missing = 0 if strict or is_tested else cfg.DATALOADER.MAX_UNREADABLE
    content, is_plain = read_dataset(
        f"DATASETS.COCO: {name}",
        annotations,
        images,
        max_missing=max_missing,
        needs_all=max_missing == 0,
        follow_links=cfg.DATASETS.FOLLOW_LINKS,
        strict=strict,
        is_trained=is_trained,
        allow_odd_boxes=cfg.DATASETS.ALLOW_ODD_BOXES,
    )
    if is_trained or is_tested:
        _check_class_count(cfg, name, len(content["categories"]))
        where = f"DATASETS.COCO: {name}: {annotations}"
        if not content["images"]:
            raise ValueError(f"{where}: has no images, expected one or more")
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
    if is_trained and cfg.MODEL.KEYPOINT_ON:
        raise ValueError(
            f"MODEL.KEYPOINT_ON: got True, but {where} gives its keypoints no names; register the "
            "data set in Python, with keypoint_names and keypoint_flip_map"
        )
    is_known = bool(cfg.MODEL.META_ARCHITECTURE)  # and not the model of a LazyConfig
    for entry in objects if cfg.MODEL.MASK_ON and is_known else ():
        if not has_segmentation(entry):
            raise ValueError(
                f"{where}: annotation {entry['id']} has no segmentation, which MODEL.MASK_ON needs"
            )
        is_encoded = isinstance(entry["segmentation"], dict)
        if is_trained and is_encoded and cfg.INPUT.MASK_FORMAT != "bitmask":
            raise ValueError(
                f"INPUT.MASK_FORMAT: got {cfg.INPUT.MASK_FORMAT!r}, expected 'bitmask': annotation "
                f"{entry['id']} of {where} is run-length encoded"
            )
