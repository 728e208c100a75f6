"""Finds mistakes in well-formed COCO data sets, such as exporters make.

Warnings about data are kept, to be repeated right above the training's lines: Detectron2 prints the
whole config and the model between them and the first of these.

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
MAJORITY = 0.5
MIN_OUTSIDE = 0.25  # share of boxes that leave their image: about half of corners do
MIN_EXPLAINED = 0.95  # share of boxes inside their image if read in another format
DUPLICATE_IOU = 0.8
MIN_DUPLICATES = 0.01  # share of objects: the best of data sets have some
MIN_OBJECTS = 20  # for a share that means something
MAX_REACH = 0.6  # farthest right and bottom edge of all objects, as a share of their image
MAX_NEIGHBOURS = 50  # objects of a class and image, from left to right, compared with each
TIFF = (".tif", ".tiff")
SAMPLE = 64  # images that are opened
IMAGE_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
HEAD = 4096  # first bytes, which differ in nearly all images of one length

logger = logging.getLogger(__name__)
_warnings: dict[str, None] = {}  # in their order, each once


class Finding(NamedTuple):
    """A likely mistake, in a line."""

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
        """Returns the first of the chosen objects, such as "annotation 7: [1, 2, ...]"."""
        first = np.flatnonzero(chosen)[:MAX_NAMES].tolist()
        boxes = [", ".join(f"{value:g}" for value in self.boxes[i]) for i in first]
        ids = [short(self.ids[i]) for i in first]
        return ", ".join(f"annotation {i}: [{box}]" for i, box in zip(ids, boxes, strict=True))


def read_objects(content: Json) -> Objects:
    """Returns the objects of an annotation file that ``check_annotations`` accepts."""
    images, entries = content["images"], content["annotations"]
    image_index = {image["id"]: i for i, image in enumerate(images)}
    class_index = {x: i for i, x in enumerate(sorted(x["id"] for x in content["categories"]))}
    sizes = np.array([(x["width"], x["height"]) for x in images], float).reshape(-1, 2)
    count = len(entries)
    of_image = np.fromiter((image_index[x["image_id"]] for x in entries), int, count)
    flat = (value for x in entries for value in x["bbox"])
    return Objects(
        np.fromiter(flat, float, 4 * count).reshape(-1, 4),
        sizes[of_image],
        of_image,
        np.fromiter((class_index[x["category_id"]] for x in entries), int, count),
        [x["id"] for x in entries],
        np.fromiter((x.get("iscrowd", 0) for x in entries), bool, count),
    )


def report(where: str, findings: Iterable[Finding], *, allow_odd_boxes: bool = False) -> None:
    """Warns of each finding; raises a ValueError for an error unless ``allow_odd_boxes``."""
    for finding in findings:
        if finding.is_error and not allow_odd_boxes:
            raise ValueError(f"{where}: {finding.text}")
        warn(f"{where}: {finding.text}")


def warn(text: str) -> None:
    """Logs a warning about data, and keeps it."""
    logger.warning("%s", text)
    _warnings[text] = None


def kept_warnings() -> list[str]:
    """Returns the warnings about the last data sets that were read."""
    return list(_warnings)


def forget_warnings() -> None:
    """Forgets the warnings of another run in this process."""
    _warnings.clear()


def audit(content: Json) -> list[Finding]:
    """Returns the findings in an annotation file that ``check_annotations`` accepts."""
    objects = read_objects(content)
    findings = [
        *find_unused_classes(objects, content["categories"]),
        *find_similar_names(class_names(content["categories"])),
        *find_repeated_images(content["images"]),
        *find_rotated_boxes(content["annotations"]),
        *find_predictions(content),
    ]
    if not len(objects.boxes):
        return findings
    with np.errstate(over="ignore", invalid="ignore"):  # boxes of 1e300 pixels
        finders = (find_fractions, find_other_formats, find_small_reach, find_duplicates)
        return [finding for find in finders for finding in find(objects)] + findings


def find_fractions(objects: Objects) -> Iterator[Finding]:
    """Finds boxes in fractions of their image: most lie within its first pixel."""
    small = (np.abs(objects.boxes).max(1) <= 1) & (objects.sizes.min(1) > 1)
    if small.mean() > MAJORITY:
        yield Finding(
            f"{small.sum()} of {len(small)} boxes lie within one pixel, such as "
            f"{objects.examples(small)}: fractions of the image, expected pixels; multiply them by "
            f"its width and height; {ALLOW}",
            is_error=True,
        )


def find_other_formats(objects: Objects) -> Iterator[Finding]:
    """Finds boxes that leave their image, and would not in another format.

    Corners read as a size leave it if their middle is in its right or lower half. In the right
    format most boxes stay inside, even if they include hidden parts of objects.
    """
    a, b, c, d = objects.boxes.T
    outside = ~_are_inside(objects.sizes, a, b, a + c, b + d)
    if outside.mean() < MIN_OUTSIDE:
        return
    formats = {
        "corners x0, y0, x1, y1": (a, b, c, d),
        "corners y0, x0, y1, x1": (b, a, d, c),
        "y, x, height, width": (b, a, b + d, a + c),
        "middle x, middle y, width, height": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        "a corner and the way to the opposite one": (
            *(np.minimum(a, a + c), np.minimum(b, b + d)),
            *(np.maximum(a, a + c), np.maximum(b, b + d)),
        ),
    }
    for name, corners in formats.items():
        if _are_inside(objects.sizes, *corners).mean() >= MIN_EXPLAINED:
            yield Finding(
                f"{outside.sum()} of {len(outside)} boxes leave their image, such as "
                f"{objects.examples(outside)}, and would not if read as {name}; expected x, y, "
                f"width, height; convert them; {ALLOW}",
                is_error=True,
            )
            return
    if len(outside) >= MIN_OBJECTS and outside.mean() > MAJORITY:
        yield Finding(
            f"{outside.sum()} of {len(outside)} boxes leave their image or are empty, such as "
            f"{objects.examples(outside)}: are they of larger images, or not in pixels? {ALLOW}",
            is_error=True,
        )


def find_small_reach(objects: Objects) -> Iterator[Finding]:
    """Finds boxes in percent, or of images that were enlarged after they were annotated."""
    reach = ((objects.boxes[:, :2] + objects.boxes[:, 2:]) / objects.sizes).max(0)
    if len(objects.boxes) >= MIN_OBJECTS and 0 < reach.max() < MAX_REACH:
        yield Finding(
            f"no box reaches beyond {reach[0]:.0%} of its image's width and {reach[1]:.0%} of its "
            "height: are they percentages, or were images enlarged after they were annotated?"
        )


def _are_inside(sizes: Array, x0: Array, y0: Array, x1: Array, y1: Array) -> Array:
    """Returns which boxes are in their image, within a pixel, and not empty."""
    first, last = np.minimum(x0, y0), np.stack([x1, y1], 1)
    inside: Array = (first >= -1) & (last <= sizes + 1).all(1) & (x1 > x0) & (y1 > y0)
    return inside


def find_duplicates(objects: Objects) -> Iterator[Finding]:
    """Finds objects that nearly cover another of their class."""
    pairs = duplicates(objects)
    count, total = len({second for _, second in pairs}), len(objects.boxes)
    if count > MIN_DUPLICATES * total:
        examples = [f"{short(objects.ids[i])} and {short(objects.ids[k])}" for i, k in pairs[:3]]
        yield Finding(
            f"{count} of {total} objects lie on another of their class in their image (IoU "
            f"{DUPLICATE_IOU} or more), such as annotations {', '.join(examples)}: are they in the "
            "file twice? A training counts both, an evaluation misses one"
        )


def duplicates(objects: Objects) -> list[tuple[int, int]]:
    """Returns pairs of objects of one class and image with an IoU above ``DUPLICATE_IOU``.

    Each is compared with its next neighbours to the right: all of them, except in the densest
    images, where equal boxes are neighbours anyway.
    """
    x, y, width, height = objects.boxes.T
    x1, y1, area = x + width, y + height, width * height
    order = np.lexsort((y, x, objects.classes, objects.images))
    group = objects.images * (objects.classes.max() + 1) + objects.classes
    pairs: list[tuple[int, int]] = []
    starts = np.arange(len(order))
    for step in range(1, MAX_NEIGHBOURS):
        starts = starts[starts + step < len(order)]
        starts = starts[group[order[starts]] == group[order[starts + step]]]
        if not len(starts):
            break
        i, k = order[starts], order[starts + step]
        overlap = (np.minimum(x1[i], x1[k]) - np.maximum(x[i], x[k])).clip(0)
        overlap *= (np.minimum(y1[i], y1[k]) - np.maximum(y[i], y[k])).clip(0)
        same = overlap > DUPLICATE_IOU * (area[i] + area[k] - overlap).clip(1e-9)
        pairs += zip(i[same].tolist(), k[same].tolist(), strict=True)
    return [(min(pair), max(pair)) for pair in pairs]


def find_unused_classes(objects: Objects, categories: Iterable[Json]) -> Iterator[Finding]:
    """Finds classes without objects, not counting crowds."""
    names = class_names(categories)
    used = set(objects.classes[~objects.is_crowd].tolist())
    if unused := [name for index, name in enumerate(names) if index not in used]:
        yield Finding(
            f"{len(unused)} of {len(names)} classes have no object: {_first(unused)}; a training "
            "cannot learn them, and the AP of an evaluation leaves them out"
        )


def find_similar_names(names: Sequence[str]) -> Iterator[Finding]:
    """Finds classes whose names differ only in case, spaces or underscores."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault("".join(name.casefold().replace("_", " ").split()), name)
        if other != name:
            yield Finding(
                f"{short(other)} and {short(name)} are two classes: if they are one, give their "
                "objects one category"
            )


def find_rotated_boxes(annotations: Iterable[Json]) -> Iterator[Finding]:
    """Finds rotated boxes of CVAT, which writes them unrotated, with the angle in degrees."""
    angles = [_angle(x) for x in annotations]
    if rotated := [x for x in angles if x % 180]:
        yield Finding(
            f"{len(rotated)} of {len(angles)} boxes have a rotation in their attributes, such as "
            f"{rotated[0]:g} degrees: they are the unrotated boxes, not those around "
            "the objects; export polygons, and take the boxes around them"
        )


def _angle(annotation: Json) -> float:
    attributes = annotation.get("attributes")
    angle = attributes.get("rotation") if isinstance(attributes, dict) else 0
    return angle if isinstance(angle, int | float) and math.isfinite(angle) else 0


def find_predictions(content: Json) -> Iterator[Finding]:
    """Finds objects with a score, which are predictions, unless the file has a teacher's labels.

    Ignores scores of 1, which some tools give to objects that people drew.
    """
    info = content.get("info")
    if isinstance(info, dict) and "labelled_by" in info:
        return
    scores = [x.get("score") for x in content["annotations"]]
    if count := sum(isinstance(score, int | float) and score != 1 for score in scores):
        yield Finding(
            f"{count} of {len(scores)} objects have a score, as predictions do: a "
            "training and an evaluation use them all as ground truth, whatever their score"
        )


def find_repeated_images(images: Sequence[Json]) -> Iterator[Finding]:
    """Finds files that are listed more than once."""
    counts = Counter(image["file_name"] for image in images)
    if repeated := len(images) - len(counts):
        first = [short(file) for file, count in counts.items() if count > 1]
        yield Finding(
            f"{repeated} of {len(images)} images have the file of another, such as {_first(first)}"
        )


def find_odd_images(
    images: Sequence[Json], folder: Path, *, needs_all: bool = False
) -> Iterator[Finding]:
    """Finds images in a sample that cannot be read or differ in size from the annotation file.

    Detectron2 applies the EXIF orientation, and then rejects another size. One such image is an
    error if ``needs_all``, as in an evaluation. Missing files, and kinds that only a user's own
    mapper reads, are skipped; TIFF files may be of such kinds, and are no error.
    """
    sample = images[:: max(len(images) // SAMPLE, 1)]
    mismatched, unreadable = [], []
    for image in sample:
        expected = (int(image["width"]), int(image["height"]))
        file = folder / image["file_name"]
        try:
            size, turned = read_size(file)
        except IMAGE_ERRORS as error:
            if file.exists() and file.suffix.lower() in ("", *Image.registered_extensions()):
                reason = error_reason(error, str(file))
                unreadable.append((file, f"{short(image['file_name'])} ({reason})"))
            continue
        if turned != expected:
            mismatched.append((image["file_name"], expected, size, turned))
    allowed = 0 if needs_all else MAJORITY * len(sample)
    of_sample = f"of a sample of {len(sample)} images"
    if unreadable:
        yield Finding(
            f"{len(unreadable)} {of_sample} cannot be read, such as {unreadable[0][1]}; if a "
            f"mapper of your own reads them, add: {FLAG}",
            is_error=sum(x.suffix.lower() not in TIFF for x, _ in unreadable) > allowed,
        )
    if not mismatched:
        return
    _, expected, _, turned = mismatched[0]
    ratios = {tuple(np.divide(x[3], x[1]).round(2).tolist()) for x in mismatched}
    if all(x[2] == x[1] for x in mismatched):
        why = "EXIF orientation explains it: annotate them turned, as viewers show them"
    elif all(x[3] == x[1][::-1] for x in mismatched):
        why = "width and height are exchanged"
    elif len(ratios) == 1:
        why = "all are {:g} times as wide and {:g} times as high".format(*ratios.pop())
        why += ": were they resized after they were annotated?"
    else:
        why = "EXIF orientation does not explain it"
    names = _first([short(name) for name, *_ in mismatched])
    sizes = "{}x{} pixels, expected {}x{}".format(*turned, *expected)
    yield Finding(
        f"{len(mismatched)} {of_sample} are not of the size in the file: {names}, the first "
        f"{sizes}; {why}",
        is_error=len(mismatched) > allowed,
    )


def read_size(file: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns width and height of an image, as stored and with its EXIF orientation.

    Raises one of ``IMAGE_ERRORS`` if it cannot be read or is not safe to decode.
    """
    with file.open("rb") as stream, open_checked_image(stream) as image:
        return image.size, turned_size(image)


def find_shared_images(train: Iterable[Path], test: Iterable[Path]) -> Iterator[Finding]:
    """Finds images of the test set that are also in the training set, by their bytes."""
    train, test = set(train), list(test)
    shared = [file for file in test if file in train]
    copies = [list(train), [file for file in test if file not in train]]
    for count in (0, HEAD, -1):  # each round reads fewer files
        digests = [{x: _digest(x, count) for x in files} for files in copies]
        common = {*digests[0].values()} & {*digests[1].values()} - {None}
        copies = [[x for x, digest in y.items() if digest in common] for y in digests]
    shared += copies[1]
    if shared:
        yield Finding(
            f"{len(shared)} of {len(test)} images are also images to train on, with the same "
            f"bytes, such as {short(str(shared[0]))}: their AP says nothing about other images"
        )


def _digest(file: Path, count: int) -> tuple[int, bytes] | None:
    """Returns the length of a file and a digest of its first bytes, -1 for all of them."""
    try:
        length, content = file.stat().st_size, b""
        if count:
            with file.open("rb") as stream:
                content = stream.read(count)
    except OSError:  # a missing file, or one without read permission
        return None
    return (length, hashlib.blake2b(content).digest()) if length else None


def class_names(categories: Iterable[Json]) -> tuple[str, ...]:
    """Returns names of categories in the order of their ids, as Detectron2 numbers them."""
    return tuple(str(x["name"]) for x in sorted(categories, key=lambda x: x["id"]))


def class_difference(names: Sequence[str], expected: Sequence[str]) -> str:
    """Returns the difference of two lists of classes in words, "" for none."""
    if list(names) == list(expected):
        return ""
    if len(names) != len(expected):
        return f"{list_names(names)} against {list_names(expected)}"
    i = next(i for i, name in enumerate(names) if name != expected[i])
    kind = "the same in another order" if sorted(names) == sorted(expected) else "other names"
    return f"{kind}, class {i} is {short(names[i])} against {short(expected[i])}"


def list_names(names: Iterable[str]) -> str:
    """Returns the number of names, and the first of them: "3 (a, b, c)"."""
    names = list(names)
    return f"{len(names)} ({_first(names)})"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + ", ..." * (len(names) > MAX_NAMES)
