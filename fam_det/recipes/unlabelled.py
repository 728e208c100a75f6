"""The data sets of a distillation on folders of images: their labels are the teacher's."""

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

HELD_OUT = 0.05  # share of the images on which student and teacher are compared without --val
FLAG = "--images"


def read_folders(
    request: LabelRequest, train: CocoData | None, val: CocoData | None, *, features_only: bool
) -> dict[str, Any]:
    """Returns data fields of a ``Request``, and prints what the teacher found.

    Args:
        request: for the labels, whose files go into its folder.
        train: labelled images that are trained on as well.
        val: to evaluate on; without, a share of the images, with the teacher's labels.
        features_only: do without labels.

    Raises:
        ValueError: nothing is found, or a flag cannot be met.
    """
    labelled = label_images(request, headers_only=features_only)
    print(write_unreadable(labelled.labels, request.output / "unreadable.txt"), end="")
    share = 0.0 if val else HELD_OUT
    if share and not any(is_held_out(name, share) for name in labelled.labels.names()):
        raise ValueError(
            f"--val: missing, and {labelled.labels.total} images are too few to hold some out; "
            "give annotations and images to evaluate on"
        )
    own = _write(labelled, request.output / "train.json", share, held_out=False)
    held_out = val or _write(labelled, request.output / "val.json", share, held_out=True)
    data = {"train": train or own, "unlabelled": own if train else None, "val": held_out}
    return {**data, "features_only": features_only}


def _write(labelled: Labelled, file: Path, share: float, *, held_out: bool) -> CocoData:
    print(write_dataset(labelled, file, lambda name: is_held_out(name, share) == held_out))
    root = str(labelled.labels.root)
    return read_coco(FLAG, str(file), root, has_labels=not labelled.headers_only)
