"""What can be wrong with a COCO annotation file, found before a training starts."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

Json = dict[str, Any]
logger = logging.getLogger(__name__)


def check_annotations(name: str, content: Any, folder: str, max_missing: int) -> None:
    """Check images, annotations and categories of a data set.

    Boxes that are empty or reach out of their image get one warning, with their number: Detectron2
    leaves out the first and clips the others.

    Args:
        name: of the data set, for the messages.
        content: the parsed file.
        folder: with the images.
        max_missing: image files that may be missing.

    Raises:
        ValueError: content of another form, ids that are not unique or not there, a size or box
            that is no number, a file outside the folder, or too many files that are missing.
    """
    try:
        images = _by_id(content["images"], "image")
        categories = _by_id(content["categories"], "category")
        _by_id(content["annotations"], "annotation")
        for image in images.values():
            _check_image(image)
        _check_files(name, [image["file_name"] for image in images.values()], folder, max_missing)
        warnings = [
            warning
            for annotation in content["annotations"]
            if (warning := _check_annotation(annotation, images, categories))
        ]
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"DATASETS.COCO: {name}: not in COCO's format ({type(error).__name__}: {error})"
        ) from error
    except ValueError as error:
        raise ValueError(f"DATASETS.COCO: {name}: {error}") from error
    if warnings:
        logger.warning(
            "%s: %d of %d boxes are empty or reach out of their image, such as: %s",
            *(name, len(warnings), len(content["annotations"]), warnings[0]),
        )


def _by_id(entries: list[Json], kind: str) -> dict[Any, Json]:
    found: dict[Any, Json] = {}
    for entry in entries:
        if entry["id"] in found:
            raise ValueError(f"two entries have the {kind} id {entry['id']!r}, expected one")
        found[entry["id"]] = entry
    return found


def _check_image(image: Json) -> None:
    for key in ("width", "height"):
        if not _is_number(image[key]) or image[key] < 1:
            raise ValueError(
                f"image {image['id']!r}: {key}: got {image[key]!r}, expected 1 pixel or more"
            )
    file = image["file_name"]
    if not isinstance(file, str) or not file:
        raise ValueError(f"image {image['id']!r}: file_name: got {file!r}, expected a path")
    if PurePath(file).is_absolute() or ".." in PurePath(file).parts or "\0" in file:
        raise ValueError(
            f"image {image['id']!r}: file_name: {file!r} leaves the image folder; "
            "expected a path inside it"
        )


def _check_files(name: str, files: list[str], folder: str, max_missing: int) -> None:
    there = set(_files_below(Path(folder), {PurePath(file).parent for file in files}))
    missing = [file for file in files if str(PurePath(file)) not in there]
    if len(missing) > max_missing:
        raise ValueError(
            f"{len(missing)} of {len(files)} images are not in {folder!r}, such as {missing[0]!r}"
        )
    if missing:
        logger.warning(
            "%s: %d of %d images are missing, such as %s",
            *(name, len(missing), len(files), missing[0]),
        )


def _files_below(folder: Path, parts: set[PurePath]) -> Iterator[str]:
    """Names relative to a folder: one listing a folder is quicker than a look for each file."""
    for part in parts:
        if (folder / part).is_dir():
            yield from (str(part / entry.name) for entry in (folder / part).iterdir())


def _check_annotation(annotation: Json, images: dict[Any, Json], categories: Any) -> str | None:
    """A warning, if there is one."""
    label = f"annotation {annotation['id']!r}"
    for key, known in (("image_id", images), ("category_id", categories)):
        if annotation[key] not in known:
            raise ValueError(f"{label}: {key}: got {annotation[key]!r}, which the file lacks")
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{label}: bbox: got {box!r}, expected [x, y, width, height]")
    x, y, width, height = box
    image = images[annotation["image_id"]]
    empty = width <= 0 or height <= 0
    out = x < -1 or y < -1 or x + width > image["width"] + 1 or y + height > image["height"] + 1
    return f"{label}: bbox {box}" if empty or out else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
