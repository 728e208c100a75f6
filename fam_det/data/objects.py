"""Whether the objects of a data set have what a config asks for: masks of a kind, say."""

from typing import Any

from detectron2.config import CfgNode


def check_objects(
    cfg: CfgNode, where: str, annotations: list[dict[str, Any]], *, trained: bool
) -> None:
    """Check what would otherwise end a training in the middle of a loss.

    Args:
        cfg: the config.
        where: start of a message, such as the file.
        annotations: of the file.
        trained: whether the data set is one of ``DATASETS.TRAIN``.

    Raises:
        ValueError: nothing to train on, or masks or keypoints other than the config's.
    """
    objects = [entry for entry in annotations if not entry.get("iscrowd", 0)]
    if trained and not objects:
        raise ValueError(f"{where}: has no annotations, expected boxes of objects; label some")
    if trained and cfg.MODEL.KEYPOINT_ON:
        raise ValueError(
            f"MODEL.KEYPOINT_ON: got True, but {where} gives its keypoints no names; register the "
            "data set in Python, with keypoint_names and keypoint_flip_map"
        )
    if cfg.MODEL.MASK_ON:
        _check_masks(cfg, where, objects, trained)


def _check_masks(cfg: CfgNode, where: str, objects: list[dict[str, Any]], trained: bool) -> None:
    for entry in objects:
        if not entry.get("segmentation"):
            raise ValueError(
                f"{where}: annotation {entry['id']} has no segmentation, which MODEL.MASK_ON needs"
            )
        in_runs = isinstance(entry["segmentation"], dict)
        if trained and in_runs and cfg.INPUT.MASK_FORMAT != "bitmask":
            raise ValueError(
                f"INPUT.MASK_FORMAT: got {cfg.INPUT.MASK_FORMAT!r}, expected 'bitmask': annotation "
                f"{entry['id']} of {where} is run-length encoded"
            )
