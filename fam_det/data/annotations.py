"""Checks COCO annotation files before a training starts.

pycocotools and similar libraries decode masks in C without checks: run lengths that do not fit
their image make them write out of bounds, and a polygon far outside of it exhausts the memory.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fam_det.data.audit import audit, find_odd_images, report, warn
from fam_det.data.images import MAX_PIXELS, check_files, check_name
from fam_det.files import short

Json = dict[str, Any]

FIELDS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
SINGULAR = {"images": "image", "categories": "category", "annotations": "annotation"}
OUTSIDE = (
    "a box that is empty or reaches out of its image (left out or clipped in a training, hard to "
    "find in an evaluation)"
)
NO_POLYGON = (
    "a segmentation without a polygon of three points (a training of masks leaves the object out, "
    "any other takes its box)"
)
COMPRESSED = (b"\x1f\x8b", b"PK")  # gzip, zip
# COCO's compressed run lengths: numbers of up to 7 characters, below 2^31 with a sign.
COMPRESSED_RUNS = re.compile("(?:[P-o]{0,6}[0-O])+")


def read_annotations(where: str, file: str, *, is_trained: bool = True) -> Json:
    """Reads an annotation file; raises a ValueError, which starts with ``where``, if it is invalid.

    A file that is not trained on may lack ``annotations``, as those of COCO's test sets do.
    """
    where = f"{where}: {file}"
    try:
        raw = Path(file).read_bytes()
        text = raw.decode(json.detect_encoding(raw))  # some exporters start with a byte order mark
        raw = raw[:4]  # frees memory: it is as large as the text
        content = json.loads(text)
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror}; expected a COCO annotation file") from error
    except RecursionError as error:
        raise ValueError(f"{where}: is not COCO's, it is nested too deeply") from error
    except UnicodeDecodeError as error:
        if raw.startswith(COMPRESSED):
            raise ValueError(f"{where}: is compressed; unpack it") from error
        raise ValueError(f"{where}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{where}: {_json_error(text, error)}") from error
    if isinstance(content, list):
        raise ValueError(
            f"{where}: is a list, as results of an evaluation and other formats are; expected "
            "COCO's format, with images, categories and annotations"
        )
    dataset: Json = content if isinstance(content, dict) else {}
    if not is_trained:
        dataset.setdefault("annotations", [])
    for name in FIELDS:
        if not isinstance(dataset.get(name), list):
            kind = type(dataset[name]).__name__ if name in dataset else "nothing"
            raise ValueError(f"{where}: {name}: got {kind}, expected a list; is it COCO's format?")
    return dataset


def _json_error(text: str, error: ValueError) -> str:
    text = text.lstrip()
    if not text:
        return "is empty"
    if not text.startswith(("{", "[")):
        return f"is not JSON, it starts with {short(text[:40])}"
    if "Extra data" in str(error):
        return f"is more than one JSON value, as JSON lines are ({error}); export COCO's format"
    return f"is not JSON, is it truncated? ({error})"


def is_labelled_by_teacher(content: Json) -> bool:
    """Returns whether the objects of a data set are a teacher's detections."""
    info = content.get("info")
    return isinstance(info, dict) and info.get("labelled_by") == "teacher"


def read_dataset(
    where: str,
    file: str,
    folder: str,
    *,
    is_trained: bool = True,
    needs_all: bool = False,
    **options: Any,
) -> tuple[Json, bool]:
    """Reads an annotation file, and checks it with the options of ``check_annotations``.

    Also opens a sample of its images: with ``needs_all`` an unusable one is an error.

    Returns:
        Its content, and whether Detectron2 can read the file as it is.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{where}: the image folder {folder!r} does not exist")
    content = read_annotations(where, file, is_trained=is_trained)
    where = f"{where}: {file}"
    is_plain = not check_annotations(where, content, folder, is_trained=is_trained, **options)
    findings = find_odd_images(content["images"], Path(folder), needs_all=needs_all)
    report(where, findings, allow_odd_boxes=options.get("allow_odd_boxes", False))
    with Path(file).open("rb") as stream:
        return content, is_plain and json.detect_encoding(stream.read(4)) == "utf-8"


def check_annotations(
    where: str,
    content: Json,
    folder: str,
    *,
    is_trained: bool = False,
    max_missing: int = 0,
    follow_links: bool = False,
    strict: bool = False,
    allow_odd_boxes: bool = False,
) -> bool:
    """Checks images, categories and annotations of a data set; errors start with ``where``.

    Boxes that are empty or reach out of their image give one warning with their number, or an error
    if ``strict``: Detectron2 drops the first and clips the others. So do polygons of fewer than
    three points, whose objects Detectron2 drops if it trains masks. With ``follow_links`` links in
    the folder may lead out of it. Findings of ``audit`` are warnings or, without
    ``allow_odd_boxes``, errors.

    Corrects file names that are spelled differently in the folder; returns whether there are any.
    """
    odd: dict[str, list[str]] = {OUTSIDE: [], NO_POLYGON: []}

    def check_category(category: Json) -> None:
        if not isinstance(category["name"], str) or not category["name"]:
            raise ValueError(f"name: got {short(category['name'])}, expected text")

    def check_object(entry: Json) -> None:
        _check_reference(entry, "category_id", categories)
        image = _check_reference(entry, "image_id", images)
        has_mask = _check_object(entry, image)
        if not _is_inside(entry["bbox"], image):
            odd[OUTSIDE].append(f"annotation {short(entry['id'])}: bbox {short(entry['bbox'])}")
        if not has_mask:
            odd[NO_POLYGON].append(f"annotation {short(entry['id'])}")

    try:
        images = _check_all(content, "images", _check_image)
        categories = _check_all(content, "categories", check_category)
        if not categories:
            raise ValueError("has no categories, expected one for each class, with a name")
        files = [image["file_name"] for image in images.values()]
        respelled, missing = check_files(
            files, Path(folder), max_missing=max_missing, follow_links=follow_links
        )
        _check_all(content, "annotations", check_object)
        _check_names(categories, content["annotations"])
        if is_trained:
            _check_trained(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if missing:
        warn(f"{where}: {len(missing)} of {len(files)} images are missing, such as {missing[0]!r}")
    for image in content["images"] if respelled else ():
        image["file_name"] = respelled.get(image["file_name"], image["file_name"])
    report(where, audit(content), allow_odd_boxes=allow_odd_boxes)
    for kind, examples in odd.items():
        if examples:
            count = f"{len(examples)} of {len(content['annotations'])} objects"
            message = f"{where}: {count} have {kind}, such as: {', '.join(examples[:3])}"
            if strict:
                raise ValueError(message)
            warn(message)
    return bool(respelled)


def _check_trained(content: Json) -> None:
    """Raises a ValueError if a training would have no object."""
    count = len(content["annotations"])
    if not count:
        raise ValueError("has no annotations, expected boxes of objects; label some")
    if all(entry.get("iscrowd", 0) for entry in content["annotations"]):
        raise ValueError(
            f"all {count} annotations are crowds (iscrowd 1), which a training leaves out; "
            "expected iscrowd 0 for single objects"
        )


def _check_all(content: Json, kind: str, check: Callable[[Json], None]) -> dict[Any, Json]:
    entries: dict[Any, Json] = {}
    for entry in content[kind]:
        fields = entry if isinstance(entry, dict) else {}
        for name in FIELDS[kind]:
            if name not in fields:
                panoptic = "this is COCO's panoptic format, expected its instances"
                advice = panoptic if "segments_info" in fields else "add it"
                raise ValueError(f"{kind}: {short(entry)} has no {name!r}; {advice}")
        number = entry["id"]
        try:
            if type(number) is not int or abs(number) >= 2**63:
                # An object's id may also be text: the evaluation numbers objects itself.
                if kind != "annotations" or isinstance(number, list | dict | None):
                    raise ValueError(f"id: got {short(number)}, expected a whole number below 2^63")
            if number in entries:
                raise ValueError("this id is there twice; give each its own")
            check(entry)
        except ValueError as error:
            raise ValueError(f"{SINGULAR[kind]} {short(number)}: {error}") from error
        entries[number] = entry
    return entries


def _check_names(categories: dict[Any, Json], annotations: list[Json]) -> None:
    """Raises a ValueError for two classes of one name that have objects, as in merged files.

    Roboflow's first category has the project's name, which may be that of a class, but no objects.
    """
    ids: dict[str, int] = {}
    for number in dict.fromkeys(entry["category_id"] for entry in annotations):
        name = categories[number]["name"]
        first = ids.setdefault(name, number)
        if first != number:
            raise ValueError(
                f"categories {first} and {number} are both called {short(name)}; "
                "give their objects one category"
            )


def _check_image(image: Json) -> None:
    for key in ("width", "height"):
        value = image[key]
        if not _are_finite([value]) or value < 1 or value != int(value):
            raise ValueError(f"{key}: got {short(value)}, expected 1 pixel or more")
    if image["width"] * image["height"] > MAX_PIXELS:
        raise ValueError(
            f"width, height: got {short(image['width'])} by {short(image['height'])}, "
            f"expected at most {MAX_PIXELS:,} pixels; cut it into tiles"
        )
    check_name(image["file_name"])


def _check_reference(annotation: Json, key: str, known: dict[Any, Json]) -> Json:
    value = annotation[key]
    if isinstance(value, list | dict) or value not in known:
        is_text = isinstance(value, str) and any(str(number) == value for number in known)
        why = "text, expected a number" if is_text else "which the file lacks"
        raise ValueError(f"{key}: got {short(value)}, {why}")
    return known[value]


def _check_object(annotation: Json, image: Json) -> bool:
    """Checks an object; returns whether it has no mask or a valid one."""
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not _are_finite(box):
        raise ValueError(f"bbox: got {short(box)}, expected [x, y, width, height], all numbers")
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise ValueError(f"iscrowd: got {short(annotation['iscrowd'])}, expected 0 or 1")
    if annotation.get("ignore", 0) != 0:
        raise ValueError(
            f"ignore: got {short(annotation['ignore'])}, expected 0; use iscrowd: 1 instead"
        )
    check_keypoints(annotation.get("keypoints"))
    return not has_segmentation(annotation) or check_segmentation(
        annotation["segmentation"], image["height"], image["width"]
    )


def _is_inside(box: list[float], image: Json) -> bool:
    x, y, width, height = box
    x_inside = x >= -1 and x + width <= image["width"] + 1  # within a pixel: boxes are rounded
    y_inside = y >= -1 and y + height <= image["height"] + 1
    return x_inside and y_inside and width > 0 and height > 0


def check_keypoints(keypoints: Any) -> None:
    """Raises a ValueError unless it is None or x, y and visibility of each keypoint."""
    if keypoints and not (
        isinstance(keypoints, list) and len(keypoints) % 3 == 0 and _are_finite(keypoints)
    ):
        raise ValueError(f"keypoints: got {short(keypoints)}, expected [x, y, visibility, ...]")


def has_segmentation(annotation: Json) -> bool:
    """Returns whether an object has a mask; [] and [[]] mean that it has none."""
    mask = annotation.get("segmentation")
    return bool(mask) and mask != [[]]


def check_segmentation(segmentation: Any, height: int, width: int) -> bool:
    """Returns whether a mask is valid: Detectron2 needs a polygon of three points or more.

    Raises:
        ValueError: neither polygons nor run lengths, a point more than a side outside of the image,
            or run lengths that do not fit an image of this size.
    """
    if isinstance(segmentation, dict):
        _check_runs(segmentation, height, width)
        return True
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation: got {short(segmentation)}, expected polygons or runs")
    if _are_finite(segmentation):
        raise ValueError(
            f"segmentation: got {short(segmentation)}, expected a list a polygon: [[x, y, ...]]"
        )
    side = max(height, width)
    for polygon in segmentation:
        if not isinstance(polygon, list) or not _are_finite(polygon):
            raise ValueError(f"segmentation: got {short(polygon)}, expected points [x, y, ...]")
        for xy in (min(polygon, default=0), max(polygon, default=0)):
            if not -side <= xy <= 2 * side:
                raise ValueError(f"segmentation: a point at {short(xy)} is far out of the image")
    return has_polygon(segmentation)


def has_polygon(segmentation: list[Any]) -> bool:
    """Returns whether one of several polygons has three points or more."""
    return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)


def is_line(annotation: Mapping[str, Any]) -> bool:
    """Returns whether an object has polygons, but none of three points or more."""
    mask = annotation.get("segmentation")
    return isinstance(mask, list) and bool(mask) and not has_polygon(mask)


def _check_runs(segmentation: Json, height: int, width: int) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"segmentation: size: got {short(size)}, expected {[height, width]}")
    runs = decode_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError(f"segmentation: counts: got {short(counts)}, expected lengths of runs")
    if sum(runs) != height * width:
        raise ValueError(
            f"segmentation: counts: got runs of {sum(runs)} pixels, expected {height * width}"
        )


def decode_runs(counts: str) -> list[int] | None:
    """Decodes COCO's compressed run lengths; returns None for any other text.

    A number consists of characters of 5 bits from "0" on, the lowest first; the sixth bit says that
    more follow. From the fourth on, a run is stored as its difference to the one two before it.
    """
    if not COMPRESSED_RUNS.fullmatch(counts):
        return None
    runs: list[int] = []
    run = bits = 0
    for letter in counts.encode():
        code = letter - ord("0")
        run |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:  # the sign
            run -= 1 << bits
        runs.append(run + (runs[-2] if len(runs) > 2 else 0))
        run = bits = 0
    return runs


def _are_finite(numbers: list[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))  # three times as fast as one by one
    except (TypeError, OverflowError):
        return False
