"""A user's own data in COCO format, registered from the config."""

from pathlib import Path

from fam_det.data.annotations import check_annotations, read_annotations
from fam_det.data.class_count import check_class_count
from fam_det.data.objects import check_objects

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances


def register_coco_datasets(cfg: CfgNode) -> None:
    """Register every [name, annotation file, image folder] of ``cfg.DATASETS.COCO``.

    A name that is there already is left alone, so that two runs in one process can share data sets.

    Raises:
        ValueError: an entry of another form, a file that is missing or not as it should be, or a
            number of categories other than the model's; the message names the entry.
    """
    for entry in cfg.DATASETS.COCO:
        parts = entry if isinstance(entry, list | tuple) else ()
        if len(parts) != 3 or not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"DATASETS.COCO: got {entry!r}, expected [name, annotation file, image folder]"
            )
        name, annotations, images = parts
        _check(cfg, name, annotations, images)
        if name not in DatasetCatalog.list():
            register_coco_instances(name, {}, annotations, images)


def _check(cfg: CfgNode, name: str, annotations: str, images: str) -> None:
    where = f"DATASETS.COCO: {name}"
    if not Path(images).is_dir():
        raise ValueError(f"{where}: the image folder {images!r} does not exist")
    content = read_annotations(where, annotations)
    where = f"{where}: {annotations}"
    strict = cfg.DATASETS.STRICT
    may_miss = not strict and name not in cfg.DATASETS.TEST  # an evaluation needs every image
    check_annotations(
        where,
        content,
        images,
        max_missing=cfg.DATALOADER.MAX_UNREADABLE if may_miss else 0,
        follow_links=cfg.DATASETS.FOLLOW_LINKS,
        strict=strict,
    )
    check_class_count(cfg, name, len(content["categories"]))
    if name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        check_objects(cfg, where, content["annotations"], trained=name in cfg.DATASETS.TRAIN)
