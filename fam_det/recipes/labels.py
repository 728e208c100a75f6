"""Labels images with a teacher's detections, as a data set in COCO's format.

Images are labelled one by one into a file of lines, so that a killed call is resumed and no more
than one image is in memory. Then the lines become a data set: detections of a high score are
objects, those of a low one crowds, which are neither object nor background (see
``fam_det.data.ignored``), and the others are dropped.
"""

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fam_det.config import DISTILLED
from fam_det.data.audit import list_names, read_size
from fam_det.data.images import check_files, error_reason
from fam_det.export.media import IMAGES, UnreadableError, progress, read_pictures
from fam_det.export.predictions import instances_to_entries, open_predictions
from fam_det.export.predictor import Predictor, detectron2_predictor
from fam_det.export.source import load_teacher, teacher_input
from fam_det.files.atomic_write import atomic_write, atomic_write_text
from fam_det.recipes.data import CocoData
from fam_det.recipes.overrides import Override, build_config
from fam_det.recipes.scores import MIN_SCORE, Scores, best_scores, default_scores
from fam_det.recipes.teacher import read_teacher, teacher_overrides
from fam_det.training.trainer import check_device

Json = dict[str, Any]
LINKS_CHECKED = 10_000  # images
logger = logging.getLogger(__name__)


def list_images(folders: Sequence[Path]) -> tuple[Path, Iterator[str]]:
    """Returns the common parent folder, and the names of the images relative to it.

    Subfolders are searched. Names come folder by folder, sorted, from an iterator.

    Raises:
        ValueError: a folder that does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--images: {folder}: there is no such folder")
    given = dict.fromkeys(os.path.abspath(x) for x in folders)  # noqa: PTH100  keeps links
    absolute = [x for x in given if not any(x.startswith(f"{y}{os.sep}") for y in given)]
    root = Path(os.path.commonpath(absolute))

    def names() -> Iterator[str]:
        for folder in absolute:
            for path, subfolders, files in os.walk(folder):
                subfolders.sort()
                for file in sorted(files):
                    if file.lower().endswith(IMAGES):
                        yield os.path.relpath(os.path.join(path, file), root)  # noqa: PTH118

    return root, names()


class LabelFile:
    """A file of JSON lines: a header with what was labelled how, then one line per image.

    Args:
        folder: of the files.
        folders: of the images.
        identity: of the teacher and its classes, part of the header.

    Raises:
        ValueError: no images, or a folder whose labels have another header.
    """

    def __init__(self, folder: Path, folders: Sequence[Path], identity: Mapping[str, Any]) -> None:
        self.names_file, self.file = folder / "images.jsonl", folder / "detections.jsonl"
        self.root, names = list_images(folders)
        header = json.dumps({**identity, "folders": [str(x.absolute()) for x in folders]})
        folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab+") as stream:  # drops an incomplete line of a killed call
            stream.seek(0)
            stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
        with self.file.open() as file:
            is_same = next(file, "").rstrip("\n") == header
            self.done = sum(1 for _ in file)
        if self.done and not is_same:
            raise ValueError(
                f"--output: {folder} has labels of other images or of another teacher; give "
                "another folder"
            )
        if not is_same:  # new, or of a call that ended before its first image
            self.names_file.unlink(missing_ok=True)
            atomic_write_text(self.file, f"{header}\n")
        is_new = not self.names_file.exists()
        if is_new:
            with atomic_write(self.names_file) as temporary, temporary.open("w") as file:
                file.writelines(f"{json.dumps(name)}\n" for name in names)
        self.total = sum(1 for _ in self.names())
        if not self.total:
            self.names_file.unlink()
            where = ", ".join(map(str, folders))
            raise ValueError(f"--images: {where}: no image; expected files of {' '.join(IMAGES)}")
        if not is_new and (count := sum(1 for _ in names)) != self.total:
            logger.warning(
                "--images: there are %d images now, and were %d at the first call, which are used; "
                "to label the new ones too give another --output",
                *(count, self.total),
            )

    def names(self) -> Iterator[str]:
        """Yields the names of all images."""
        with self.names_file.open() as file:
            yield from map(json.loads, file)

    def lines(self) -> Iterator[Json]:
        """Yields the line of each labelled image."""
        with self.file.open() as file:
            next(file)
            yield from map(json.loads, file)

    def label(self, detect: Callable[[Path], Json]) -> None:
        """Labels the remaining images, and shows the progress.

        Args:
            detect: returns the line of an image without its name.
        """
        names = progress(self.names(), "labelling", self.total)
        with self.file.open("a", buffering=1) as file:
            for number, name in enumerate(names):
                if number < self.done:
                    continue
                if any(ord(letter) < 32 for letter in name):
                    line = {"error": "a control character in the name, which no data set may have"}
                else:
                    line = detect(self.root / name)
                file.write(f"{json.dumps({'file_name': name, **line})}\n")
        self.done = self.total


def make_detect(predictor: Predictor, classes: Sequence[int]) -> Callable[[Path], Json]:
    """Returns a function from an image file to its line of labels, without the name.

    Args:
        predictor: the teacher.
        classes: its class for each of the data set's.
    """
    index_of = {teacher_class: index for index, teacher_class in enumerate(classes)}

    def detect(file: Path) -> Json:
        try:
            (image,) = read_pictures(file, predictor.input_format)
            instances = predictor(image)
        except UnreadableError as error:
            return {"error": str(error)}
        entries = instances_to_entries(instances[instances.scores >= MIN_SCORE])
        objects = [
            x | {"category_id": index_of[x["category_id"]]}
            for x in entries
            if x["category_id"] in index_of
        ]
        height, width = image.shape[:2]
        return {"height": height, "width": width, "objects": objects}

    return detect


def read_header(file: Path) -> Json:
    """Returns the line of an image without running the teacher, and without the name."""
    try:
        _, (width, height) = read_size(file)
    except Exception as error:  # a broken file makes Pillow raise errors of many types
        return {"error": error_reason(error, str(file))}
    return {"height": height, "width": width, "objects": []}


def is_held_out(name: str, share: float) -> bool:
    """Returns whether an image belongs to a share of all, by a hash of its name."""
    return zlib.crc32(name.encode(errors="surrogateescape")) % 10_000 < 10_000 * share


@dataclass(frozen=True)
class LabelRequest:
    """A user's request for labels."""

    teacher: str  # as of ``Request``
    folders: Sequence[Path]
    output: Path  # folder of the files
    teacher_weights: str | None = None
    classes: Sequence[str] = ()  # of the teacher, in the order of the data set; () for all
    labelled: CocoData | None = None  # data on which scores are chosen
    scores: tuple[float, float] | None = None  # low and high, instead of chosen ones
    device: str = "cpu"
    options: Sequence[str] = ()


class Labelled(NamedTuple):
    """The labels of a request."""

    labels: LabelFile
    names: Sequence[str]  # of the classes
    scores: Scores
    headers_only: bool = False  # only image sizes were read


def write_dataset(
    labelled: Labelled, file: Path, keep: Callable[[str], bool] = lambda _: True
) -> str:
    """Writes the readable images as a data set in COCO format; returns a line on its contents.

    Args:
        labelled: labels of all images.
        file: to write.
        keep: whether to include an image, by its name.

    Raises:
        ValueError: no object.
    """
    categories = [{"id": i, "name": name} for i, name in enumerate(labelled.names, start=1)]
    info = {"description": "detections of a teacher", "labelled_by": "teacher"}
    uncertain = 0
    with open_predictions(file, info, categories) as dataset:
        for line in labelled.labels.lines():
            if "error" in line or not keep(line["file_name"]):
                continue
            detections = [
                entry | {"iscrowd": labelled.scores.is_crowd(entry)} for entry in line["objects"]
            ]
            entries = [entry for entry in detections if entry["iscrowd"] is not None]
            image = {key: line[key] for key in ("file_name", "height", "width")}
            dataset.add_entries(image, entries)
            uncertain += sum(entry["iscrowd"] for entry in entries)
        objects = dataset.num_objects - uncertain
        if not (objects or labelled.headers_only):
            high = max(labelled.scores.high)
            raise ValueError(
                f"--images: the teacher finds nothing with a score of {high:g} or more in "
                f"{dataset.num_images:,} images of {labelled.labels.root}; give a teacher of these "
                "objects, or tools/label.py lower --scores"
            )
    return (
        f"{file}: {objects:,} objects and {uncertain:,} uncertain ones in "
        f"{dataset.num_images:,} images"
    )


def write_unreadable(labels: LabelFile, file: Path) -> str:
    """Writes the unreadable images with reasons; returns a line on them, or ""."""
    lines = [f"{x['file_name']}: {x['error']}\n" for x in labels.lines() if "error" in x]
    # A file name may be no UTF-8: Python then has surrogates, which cannot be written.
    lines = [x.encode("utf-8", "backslashreplace").decode() for x in lines]
    file.unlink(missing_ok=True)
    if not lines:
        return ""
    atomic_write_text(file, "".join(lines))
    return f"{len(lines):,} images could not be read, see {file}, such as {lines[0]}"


def label_images(request: LabelRequest, *, headers_only: bool = False) -> Labelled:
    """Labels all images that are not labelled yet; with ``headers_only`` only reads their sizes.

    Raises:
        ValueError: an invalid teacher, folder or class.
    """
    check_device(request.device, False, ("--device", ""))
    overrides = teacher_overrides(request.teacher, request.teacher_weights)
    # load_teacher below loads one only for a distillation.
    overrides["MODEL.META_ARCHITECTURE"] = Override(DISTILLED)
    cfg = build_config(overrides, request.options)
    teacher = read_teacher(cfg)
    known = teacher.class_names or tuple(map(str, range(teacher.num_classes)))
    names = tuple(request.classes) or known
    for name in () if headers_only else names:
        if name not in known:
            raise ValueError(
                f"--classes: the teacher does not find {name!r}, but {list_names(known)}"
                + "".join(f"; close name: {x}" for x in get_close_matches(name, known, n=1))
            )
    node = cfg.MODEL.TEACHER
    teacher_key = [node.CONFIG, node.WEIGHTS, node.OPTS, _stamp(node.WEIGHTS)]
    identity = {"teacher": teacher_key, "classes": names, "headers_only": headers_only}
    labels = LabelFile(request.output, request.folders, identity)
    _check_links(labels, cfg.DATASETS.FOLLOW_LINKS)

    @cache  # loads the teacher only if an image is left to label
    def load_detector() -> Callable[[Path], Json]:
        frozen, missing = load_teacher(cfg)
        if frozen is None or missing:
            raise ValueError(f"--teacher: {missing}")
        detector = frozen.detector.to(request.device)
        predictor = detectron2_predictor(detector, teacher_input(cfg, frozen))
        return make_detect(predictor, [known.index(x) for x in names])

    def detect(file: Path) -> Json:
        return load_detector()(file)

    labels.label(read_header if headers_only else detect)
    if request.labelled and not (request.scores or headers_only):
        file = request.output / "scores.json"
        scores = _load_or_choose_scores(file, detect, request.labelled, names)
    else:
        scores = default_scores(len(names), *(request.scores or ()))
    return Labelled(labels, names, scores, headers_only)


def _check_links(labels: LabelFile, follow_links: bool) -> None:
    """Raises a ValueError, before hours of labelling, for links that no training would follow."""
    first = list(islice(labels.names(), LINKS_CHECKED))
    try:
        check_files(first, labels.root, max_missing=len(first), follow_links=follow_links)
    except ValueError as error:
        raise ValueError(f"--images: {error}") from error


def _load_or_choose_scores(
    file: Path, detect: Callable[[Path], Json], data: CocoData, names: Sequence[str]
) -> Scores:
    """Chooses scores, or returns those that an earlier call has chosen on the same data."""
    key = [data.annotations, _stamp(data.annotations)]
    if file.is_file() and (saved := json.loads(file.read_text()))["on"] == key:
        return Scores(saved["high"], saved["low"])
    scores = best_scores(detect, data, names)
    text = ", ".join(f"{x} {score:.2f}" for x, score in zip(names, scores.high, strict=True))
    print(f"Objects have these scores or more, of the best F1 on {data.annotations}: {text}")
    atomic_write_text(file, json.dumps({"on": key, **asdict(scores)}) + "\n")
    return scores


def _stamp(file: str) -> list[int]:
    """Returns size and modification time of a file; empty if there is none."""
    stat = Path(file).stat() if file and Path(file).is_file() else None
    return [stat.st_size, stat.st_mtime_ns] if stat else []
