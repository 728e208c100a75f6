"""What is well-formed in a COCO data set and yet wrong, as exporters write it.

Warnings about data are kept, to be repeated where a user looks: above the training's lines. Between
them and its first line Detectron2 prints the whole config and the model.

N: objects. Boxes are x, y, width, height in pixels, as COCO's.
"""

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fam_det.data.images import error_reason, open_checked_image, turned_size
from fam_det.files import short

Json = dict[str, Any]
Array = NDArray[Any]

FLAG = "--allow-odd-boxes (DATASETS.ALLOW_ODD_BOXES True)"
ALLOW = f"if they are right, add: {FLAG}"
MAX_NAMES = 3  # in a message
MOST = 0.5
MIN_OUTSIDE = 0.25  # share of boxes that leave their image: of corners about half
MIN_EXPLAINED = 0.95  # share of boxes that stay inside in another reading
TWIN_IOU = 0.8
MIN_TWINS = 0.01  # share of objects: some are annotated twice in the best of data sets
MIN_OBJECTS = 20  # of which a share says something
MAX_REACH = 0.6  # how far objects come in both directions
MAX_NEIGHBOURS = 50  # compared with an object, of its class in its image, from left to right
TIFF = (".tif", ".tiff")
SAMPLE = 64  # images that are opened
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
HEAD = 4096  # bytes that differ in nearly all images of one length

logger = logging.getLogger(__name__)
_kept: dict[str, None] = {}  # warnings in their order, each once


class Finding(NamedTuple):
    """What is wrong, in a line."""

    text: str
    is_error: bool = False


class Objects(NamedTuple):
    """The objects of a data set."""

    boxes: Array  # (N, 4)
    sizes: Array  # of their images, (N, 2), width and height
    images: Array  # (N,), by position in the file
    classes: Array  # (N,), by the order of ids, which is that of the model's classes
    ids: Sequence[Any]  # of the annotations
    is_crowd: Array  # (N,)

    def examples(self, chosen: Array) -> str:
        """Returns the first of some objects as the file has them: "annotation 7: [1, 2, ...]"."""
        first = np.flatnonzero(chosen)[:MAX_NAMES].tolist()
        boxes = [", ".join(f"{value:g}" for value in self.boxes[i]) for i in first]
        ids = [short(self.ids[i]) for i in first]
        return ", ".join(f"annotation {i}: [{box}]" for i, box in zip(ids, boxes, strict=True))


def read_objects(content: Json) -> Objects:
    """Returns the objects of an annotation file that ``check_annotations`` admits."""
    images, entries = content["images"], content["annotations"]
    places = {image["id"]: place for place, image in enumerate(images)}
    classes = {x: place for place, x in enumerate(sorted(x["id"] for x in content["categories"]))}
    sizes = np.array([(x["width"], x["height"]) for x in images], float).reshape(-1, 2)
    count = len(entries)
    of_image = np.fromiter((places[x["image_id"]] for x in entries), int, count)
    flat = (value for x in entries for value in x["bbox"])
    return Objects(
        np.fromiter(flat, float, 4 * count).reshape(-1, 4),
        sizes[of_image],
        of_image,
        np.fromiter((classes[x["category_id"]] for x in entries), int, count),
        [x["id"] for x in entries],
        np.fromiter((x.get("iscrowd", 0) for x in entries), bool, count),
    )


def report(where: str, findings: Iterable[Finding], *, allow_odd_boxes: bool = False) -> None:
    """Warns of each finding, or raises a ValueError for an error that is not allowed."""
    for finding in findings:
        if finding.is_error and not allow_odd_boxes:
            raise ValueError(f"{where}: {finding.text}")
        warn(f"{where}: {finding.text}")


def warn(text: str) -> None:
    """Logs a warning about data, and keeps it."""
    logger.warning("%s", text)
    _kept[text] = None


def kept_warnings() -> list[str]:
    """Returns the warnings about the data sets that were read last."""
    return list(_kept)


def forget_warnings() -> None:
    """Forgets all: those of another run in this process."""
    _kept.clear()


def audit(content: Json) -> list[Finding]:
    """Returns what is odd in an annotation file that ``check_annotations`` admits."""
    objects = read_objects(content)
    found = [
        *find_unused_classes(objects, content["categories"]),
        *find_similar_names(class_names(content["categories"])),
        *find_repeated_images(content["images"]),
        *find_turned_boxes(content["annotations"]),
        *find_predictions(content),
    ]
    if not len(objects.boxes):
        return found
    with np.errstate(over="ignore", invalid="ignore"):  # boxes of 1e300 pixels
        finders = (find_fractions, find_other_readings, find_small_reach, find_twins)
        boxes = [finding for find in finders for finding in find(objects)]
    return boxes + found


def find_fractions(objects: Objects) -> Iterator[Finding]:
    """Finds boxes that are fractions of their image: most lie within its first pixel."""
    small = (np.abs(objects.boxes).max(1) <= 1) & (objects.sizes.min(1) > 1)
    if small.mean() > MOST:
        yield Finding(
            f"{small.sum()} of {len(small)} boxes lie within one pixel, such as "
            f"{objects.examples(small)}: fractions of the image, expected pixels; multiply them by "
            f"its width and height; {ALLOW}",
            is_error=True,
        )


def find_other_readings(objects: Objects) -> Iterator[Finding]:
    """Finds boxes that leave their image, and would not if they were corners or began in a middle.

    Of corners those leave it whose middle is in its right or lower half. Most boxes leave it in no
    reading that is right, not even where they go around what is hidden.
    """
    a, b, c, d = objects.boxes.T
    outside = ~_are_inside(objects.sizes, a, b, a + c, b + d)
    if outside.mean() < MIN_OUTSIDE:
        return
    readings = {
        "corners x0, y0, x1, y1": (a, b, c, d),
        "corners y0, x0, y1, x1": (b, a, d, c),
        "y, x, height, width": (b, a, b + d, a + c),
        "middle x, middle y, width, height": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        "a corner and the way to the opposite one": (
            *(np.minimum(a, a + c), np.minimum(b, b + d)),
            *(np.maximum(a, a + c), np.maximum(b, b + d)),
        ),
    }
    for name, corners in readings.items():
        if _are_inside(objects.sizes, *corners).mean() >= MIN_EXPLAINED:
            yield Finding(
                f"{outside.sum()} of {len(outside)} boxes leave their image, such as "
                f"{objects.examples(outside)}, and would not if read as {name}; expected x, y, "
                f"width, height; convert them; {ALLOW}",
                is_error=True,
            )
            return
    if len(outside) >= MIN_OBJECTS and outside.mean() > MOST:
        yield Finding(
            f"{outside.sum()} of {len(outside)} boxes leave their image or are empty, such as "
            f"{objects.examples(outside)}: are they of larger images, or not in pixels? {ALLOW}",
            is_error=True,
        )


def find_small_reach(objects: Objects) -> Iterator[Finding]:
    """Finds boxes that are percentages, or of images that were enlarged later."""
    reach = ((objects.boxes[:, :2] + objects.boxes[:, 2:]) / objects.sizes).max(0)
    if len(objects.boxes) >= MIN_OBJECTS and 0 < reach.max() < MAX_REACH:
        yield Finding(
            f"no box reaches beyond {reach[0]:.0%} of its image's width and {reach[1]:.0%} of its "
            "height: are they percentages, or were images enlarged after they were annotated?"
        )


def _are_inside(sizes: Array, x0: Array, y0: Array, x1: Array, y1: Array) -> Array:
    """Returns which boxes are in their image, give or take a pixel, and not empty."""
    first, last = np.minimum(x0, y0), np.stack([x1, y1], 1)
    inside: Array = (first >= -1) & (last <= sizes + 1).all(1) & (x1 > x0) & (y1 > y0)
    return inside


def find_twins(objects: Objects) -> Iterator[Finding]:
    """Finds objects that lie on another of their class."""
    pairs = twins(objects)
    count, total = len({second for _, second in pairs}), len(objects.boxes)
    if count > MIN_TWINS * total:
        examples = [f"{short(objects.ids[i])} and {short(objects.ids[k])}" for i, k in pairs[:3]]
        yield Finding(
            f"{count} of {total} objects lie on another of their class in their image (IoU "
            f"{TWIN_IOU} or more), such as annotations {', '.join(examples)}: are they in the file "
            "twice? A training counts both, an evaluation misses one"
        )


def twins(objects: Objects) -> list[tuple[int, int]]:
    """Returns pairs of objects of one class and image that nearly overlap.

    Each is compared with the next ones to its right: as many as there are in all but the densest
    images, where equal boxes are still neighbours.
    """
    x, y, width, height = objects.boxes.T
    x1, y1, area = x + width, y + height, width * height
    order = np.lexsort((y, x, objects.classes, objects.images))
    group = objects.images * (objects.classes.max() + 1) + objects.classes
    found: list[tuple[int, int]] = []
    starts = np.arange(len(order))
    for step in range(1, MAX_NEIGHBOURS):
        starts = starts[starts + step < len(order)]
        starts = starts[group[order[starts]] == group[order[starts + step]]]
        if not len(starts):
            break
        i, k = order[starts], order[starts + step]
        overlap = (np.minimum(x1[i], x1[k]) - np.maximum(x[i], x[k])).clip(0)
        overlap *= (np.minimum(y1[i], y1[k]) - np.maximum(y[i], y[k])).clip(0)
        same = overlap > TWIN_IOU * (area[i] + area[k] - overlap).clip(1e-9)
        found += zip(i[same].tolist(), k[same].tolist(), strict=True)
    return [(min(pair), max(pair)) for pair in found]


def find_unused_classes(objects: Objects, categories: Iterable[Json]) -> Iterator[Finding]:
    """Finds classes without an object that is no crowd."""
    names = class_names(categories)
    used = set(objects.classes[~objects.is_crowd].tolist())
    if unused := [name for index, name in enumerate(names) if index not in used]:
        yield Finding(
            f"{len(unused)} of {len(names)} classes have no object: {_first(unused)}; a training "
            "cannot learn them, and the AP of an evaluation leaves them out"
        )


def find_similar_names(names: Sequence[str]) -> Iterator[Finding]:
    """Finds classes whose names differ in case, spaces or underscores alone."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault("".join(name.casefold().replace("_", " ").split()), name)
        if other != name:
            yield Finding(
                f"{short(other)} and {short(name)} are two classes: if they are one, give their "
                "objects one category"
            )


def find_turned_boxes(annotations: Iterable[Json]) -> Iterator[Finding]:
    """Finds boxes that CVAT writes as they are before it turns them, with the angle in degrees."""
    angles = [_angle(x) for x in annotations]
    if turned := [x for x in angles if x % 180]:
        yield Finding(
            f"{len(turned)} of {len(angles)} boxes have a rotation in their attributes, such as "
            f"{turned[0]:g} degrees: they are the boxes before they are turned, not those around "
            "the objects; export polygons, and take the boxes around them"
        )


def _angle(annotation: Json) -> float:
    attributes = annotation.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, dict) else 0
    return angle if isinstance(angle, int | float) and math.isfinite(angle) else 0


def find_predictions(content: Json) -> Iterator[Finding]:
    """Finds objects with a score: another detector's, unless it is the teacher's own.

    A score of 1 is what some tools give to objects that people drew.
    """
    info = content.get("info")
    if isinstance(info, dict) and "labelled_by" in info:
        return
    scores = [x.get("score") for x in content["annotations"]]
    if count := sum(isinstance(score, int | float) and score != 1 for score in scores):
        yield Finding(
            f"{count} of {len(scores)} objects have a score, as predictions do: a "
            "training and an evaluation take them all for true, whatever their score"
        )


def find_repeated_images(images: Sequence[Json]) -> Iterator[Finding]:
    """Finds files that are listed as more than one image."""
    counts = Counter(image["file_name"] for image in images)
    if repeated := len(images) - len(counts):
        first = [short(file) for file, count in counts.items() if count > 1]
        yield Finding(
            f"{repeated} of {len(images)} images have the file of another, such as {_first(first)}"
        )


def find_odd_images(
    images: Sequence[Json], folder: Path, *, needs_all: bool = False
) -> Iterator[Finding]:
    """Finds images that cannot be read or have another size than their file says, in a sample.

    Detectron2 turns an image as its EXIF orientation says, and then uses none of another size. One
    is an error if it ``needs_all``, as an evaluation does. Files that are missing, and kinds that
    only a user's own mapper reads, are not looked at; TIFF files may be such, and are no error.
    """
    sample = images[:: max(len(images) // SAMPLE, 1)]
    others, unreadable, are_tiff = [], [], []
    for image in sample:
        expected = (int(image["width"]), int(image["height"]))
        file = folder / image["file_name"]
        try:
            size, turned = read_size(file)
        except IMAGE_ERRORS as error:
            if file.exists() and file.suffix.lower() in ("", *Image.registered_extensions()):
                reason = error_reason(error, str(file))
                unreadable.append(f"{short(image['file_name'])} ({reason})")
                are_tiff.append(file.suffix.lower() in TIFF)
            continue
        if turned != expected:
            others.append((image["file_name"], expected, size, turned))
    too_many = 0 if needs_all else MOST * len(sample)
    of_sample = f"of a sample of {len(sample)} images"
    if unreadable:
        yield Finding(
            f"{len(unreadable)} {of_sample} cannot be read, such as {unreadable[0]}; if a mapper "
            f"of your own reads them, add: {FLAG}",
            is_error=len(unreadable) - sum(are_tiff) > too_many,
        )
    if not others:
        return
    _, expected, _, turned = others[0]
    ratios = {tuple(np.divide(x[3], x[1]).round(2).tolist()) for x in others}
    if all(x[2] == x[1] for x in others):
        why = "EXIF orientation explains it: annotate them turned, as viewers show them"
    elif all(x[3] == x[1][::-1] for x in others):
        why = "width and height are exchanged"
    elif len(ratios) == 1:
        why = "all are {:g} times as wide and {:g} times as high".format(*ratios.pop())
        why += ": were they resized after they were annotated?"
    else:
        why = "EXIF orientation does not explain it"
    names = _first([short(name) for name, *_ in others])
    yield Finding(
        f"{len(others)} {of_sample} are not of the size in the file: {names}, the first "
        f"{_by(turned)} pixels, expected {_by(expected)}; {why}",
        is_error=len(others) > too_many,
    )


def read_size(file: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns width and height of an image, as stored and as EXIF turns it.

    Raises one of ``IMAGE_ERRORS`` for an image that cannot be read or is not safe to decode.
    """
    with file.open("rb") as stream, open_checked_image(stream) as image:
        return image.size, turned_size(image)


def find_shared_images(train: Iterable[Path], test: Iterable[Path]) -> Iterator[Finding]:
    """Finds images of the test set that are also in the training set, by their bytes."""
    firsts, seconds = set(train), list(test)
    total, same = len(seconds), [file for file in seconds if file in firsts]
    seconds = [file for file in seconds if file not in firsts]
    for count in (0, HEAD, -1):  # each is read of fewer files
        first, second = ({x: _digest(x, count) for x in files} for files in (firsts, seconds))
        common = {*first.values()} & {*second.values()} - {None}
        firsts = {file for file, value in first.items() if value in common}
        seconds = [file for file, value in second.items() if value in common]
    if seconds := same + seconds:
        yield Finding(
            f"{len(seconds)} of {total} images are also images to train on, with the same bytes, "
            f"such as {short(str(seconds[0]))}: their AP says nothing about other images"
        )


def _digest(file: Path, count: int) -> tuple[int, bytes] | None:
    """Returns the length of a file and a digest of its first bytes, -1 for all of them."""
    try:
        length, content = file.stat().st_size, b""
        if count:
            with file.open("rb") as stream:
                content = stream.read(count)
    except OSError:  # a file that is missing or may not be read
        return None
    return (length, hashlib.blake2b(content).digest()) if length else None


def class_names(categories: Iterable[Json]) -> tuple[str, ...]:
    """Returns names of categories in the order of their ids, as Detectron2 numbers them."""
    return tuple(str(x["name"]) for x in sorted(categories, key=lambda x: x["id"]))


def class_difference(names: Sequence[str], others: Sequence[str]) -> str:
    """Returns how two lists of classes differ, in words; "" where they do not."""
    if list(names) == list(others):
        return ""
    if len(names) != len(others):
        return f"{list_names(names)} against {list_names(others)}"
    i = next(i for i, (name, other) in enumerate(zip(names, others, strict=True)) if name != other)
    kind = "the same in another order" if sorted(names) == sorted(others) else "other names"
    return f"{kind}, class {i} is {short(names[i])} against {short(others[i])}"


def list_names(names: Iterable[str]) -> str:
    """Returns how many names there are and the first of them: "3 (a, b, c)"."""
    names = list(names)
    return f"{len(names)} ({_first(names)})"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + ", ..." * (len(names) > MAX_NAMES)


def _by(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)
