"""COCO annotation files: what can be wrong with one, found before a training starts."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from fam_det.data.image_file import MAX_PIXELS
from fam_det.data.image_paths import check_files, check_name
from fam_det.data.segmentation import check_keypoints, check_segmentation
from fam_det.files import short

Json = dict[str, Any]
logger = logging.getLogger(__name__)

FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
ODD = (
    "%d of %d objects have a box that is empty or reaches out of its image, or no polygon of three "
    "points (left out or clipped in a training, hard to find in an evaluation), such as: %s"
)


def read_annotations(where: str, file: str) -> Json:
    """The content of an annotation file, its lists there.

    Args:
        where: start of a message, such as the key that names the file.
        file: path of the JSON file.

    Raises:
        ValueError: a file that is missing, truncated or of another format.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{where}: {file}: {error.strerror}; expected a COCO annotation file"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where}: {file}: is not COCO's, it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{where}: {file}: is not JSON, is it truncated? ({error})") from error
    found: Json = content if isinstance(content, dict) else {}
    for name in FIELDS:
        if not isinstance(found.get(name), list):
            kind = type(found.get(name)).__name__ if name in found else "nothing"
            raise ValueError(
                f"{where}: {file}: {name}: got {kind}, expected a list; is it COCO's format?"
            )
    return found


def check_annotations(
    where: str,
    content: Json,
    folder: str,
    *,
    max_missing: int = 0,
    follow_links: bool = False,
    strict: bool = False,
) -> None:
    """Check images, categories and annotations of a data set.

    Boxes that are empty or reach out of their image, and polygons of fewer than three points, get
    one warning, with their number: Detectron2 leaves out the first and the last and clips the rest.

    Args:
        where: start of a message, such as the file.
        content: of ``read_annotations``.
        folder: with the images.
        max_missing: image files that may be missing.
        follow_links: let links in the folder lead out of it.
        strict: make the warning an error.

    Raises:
        ValueError: a field that is missing, ids that are not unique or not there, a size, box, mask
            or name that cannot be, a file outside of the folder, or too many that are missing.
    """
    try:
        for kind in FIELDS:
            _check_fields(kind, content[kind])
        images = _by_id(content["images"], "image")
        categories = _by_id(content["categories"], "category")
        _check_categories(categories)
        for image in images.values():
            _check_image(image)
        files = [image["file_name"] for image in images.values()]
        check_files(where, files, Path(folder), max_missing=max_missing, follow_links=follow_links)
        odd = _check_objects(content["annotations"], images, categories)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if odd and strict:
        raise ValueError(f"{where}: {ODD % (len(odd), len(content['annotations']), odd[0])}")
    if odd:
        logger.warning(f"%s: {ODD}", where, len(odd), len(content["annotations"]), odd[0])


def _check_fields(kind: str, entries: list[Any]) -> None:
    for entry in entries:
        fields = entry if isinstance(entry, dict) else {}
        for name in FIELDS[kind]:
            if name not in fields:
                raise ValueError(f"{kind}: {short(entry)} has no {name!r}; add it")


def _by_id(entries: list[Json], kind: str) -> dict[int, Json]:
    found: dict[int, Json] = {}
    for entry in entries:
        number = entry["id"]
        if type(number) is not int or abs(number) >= 2**63:
            raise ValueError(f"{kind} id: got {short(number)}, expected a whole number")
        if number in found:
            raise ValueError(f"two entries have the {kind} id {number}, expected one")
        found[number] = entry
    return found


def _check_categories(categories: dict[int, Json]) -> None:
    if not categories:
        raise ValueError("has no categories, expected one for each class, with a name")
    for number, category in categories.items():
        if not isinstance(category["name"], str):
            raise ValueError(
                f"category {number}: name: got {short(category['name'])}, expected text"
            )


def _check_image(image: Json) -> None:
    label = f"image {image['id']}"
    for key in ("width", "height"):
        value = image[key]
        if not _is_number(value) or value < 1 or value != int(value):
            raise ValueError(f"{label}: {key}: got {short(value)}, expected 1 pixel or more")
    if image["width"] * image["height"] > MAX_PIXELS:
        raise ValueError(
            f"{label}: width, height: got {short(image['width'])} by {short(image['height'])}, "
            f"expected at most {MAX_PIXELS:,} pixels; cut it into tiles"
        )
    try:
        check_name(image["file_name"])
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def _check_objects(
    annotations: list[Json], images: dict[int, Json], categories: dict[int, Json]
) -> list[str]:
    """What is odd about some of them, one text each."""
    seen: set[Any] = set()
    odd = []
    for annotation in annotations:
        label = f"annotation {short(annotation['id'])}"
        try:
            if annotation["id"] in seen:
                raise ValueError("this id is there twice")
            seen.add(annotation["id"])
            for key, known in (("image_id", images), ("category_id", categories)):
                if annotation[key] not in known:
                    raise ValueError(f"{key}: got {short(annotation[key])}, which the file lacks")
            if not _check_object(annotation, images[annotation["image_id"]]):
                odd.append(f"{label}: bbox {short(annotation['bbox'])}")
        except TypeError as error:  # cannot be looked up
            raise ValueError(f"{label}: has a list or object for an id") from error
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
    return odd


def _check_object(annotation: Json, image: Json) -> bool:
    """Whether box and mask can be used as they are."""
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox: got {short(box)}, expected [x, y, width, height]")
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise ValueError(f"iscrowd: got {short(annotation['iscrowd'])}, expected 0 or 1")
    x, y, width, height = box
    drawn = check_segmentation(annotation.get("segmentation"), image["height"], image["width"])
    check_keypoints(annotation.get("keypoints"))
    inside = x >= -1 and y >= -1 and x + width <= image["width"] + 1
    return drawn and inside and y + height <= image["height"] + 1 and width > 0 and height > 0


def _is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False
