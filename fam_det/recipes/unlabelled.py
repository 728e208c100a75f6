"""Data sets of a distillation on folders of images, with the teacher's labels."""

from pathlib import Path
from typing import Any

from fam_det.recipes.data import CocoData, read_coco
from fam_det.recipes.labels import (
    Labelled,
    LabelRequest,
    is_held_out,
    label_images,
    write_dataset,
    write_unreadable,
)

HELD_OUT = 0.05  # share of the images to evaluate on without --val
FLAG = "--images"


def read_folders(
    request: LabelRequest, train: CocoData | None, val: CocoData | None, *, features_only: bool
) -> dict[str, Any]:
    """Returns data fields of a ``Request``, and prints lines on the labels.

    Args:
        request: for the labels, whose files go into its folder.
        train: labelled images to train on as well.
        val: to evaluate on; None takes a share of the images, with the teacher's labels.
        features_only: whether to make no labels.

    Raises:
        ValueError: no detections, or a flag cannot be met.
    """
    labelled = label_images(request, headers_only=features_only)
    print(write_unreadable(labelled.labels, request.output / "unreadable.txt"), end="")
    share = 0.0 if val else HELD_OUT
    if share and not any(is_held_out(name, share) for name in labelled.labels.names()):
        raise ValueError(
            f"--val: missing, and {labelled.labels.total} images are too few to hold some out; "
            "give annotations and images to evaluate on"
        )
    images = _write(labelled, request.output / "train.json", share, held_out=False)
    held_out = val or _write(labelled, request.output / "val.json", share, held_out=True)
    data = {"train": train or images, "unlabelled": images if train else None, "val": held_out}
    return {**data, "features_only": features_only}


def _write(labelled: Labelled, file: Path, share: float, *, held_out: bool) -> CocoData:
    print(write_dataset(labelled, file, lambda name: is_held_out(name, share) == held_out))
    root = str(labelled.labels.root)
    return read_coco(FLAG, str(file), root, has_labels=not labelled.headers_only)
