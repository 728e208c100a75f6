"""Data sets under ``DETECTRON2_DATASETS``: COCO's files, and whether they are whole."""

import os
from pathlib import Path

from fam_det.doctor.fact import GAP, NOTE, OK, Fact

VARIABLE = "DETECTRON2_DATASETS"
SPLITS = ("train2017", "val2017")
CHUNK = 1 << 22  # bytes
OWN_DATA = "data of your own need none of it (docs/your_data.md)"


def root() -> Path:
    """Where Detectron2 looks for data sets."""
    return Path(os.environ.get(VARIABLE, "datasets")).expanduser()


def check_root() -> list[Fact]:
    """The folder, and what lies in it."""
    folder, name = root(), "data sets"
    if not folder.is_dir():
        state = GAP if VARIABLE in os.environ else NOTE
        found = f"{VARIABLE} is not set, and there is no folder {folder} here"
        if VARIABLE in os.environ:
            found = f"{VARIABLE}: {folder} is no folder"
        advice = f"for COCO: export {VARIABLE}=/path/to/the/folder/that/holds/coco; {OWN_DATA}"
        return [Fact(state, name, found, advice)]
    inside = sorted(item.name for item in folder.iterdir() if item.is_dir())
    if "coco" not in inside:
        found = f"{folder} holds no coco, but {', '.join(inside) or 'nothing'}"
        advice = f"put coco/annotations, coco/train2017 and coco/val2017 there; {OWN_DATA}"
        return [Fact(NOTE, name, found, advice)]
    return [Fact(OK, name, f"{folder} holds {', '.join(inside)}")]


def check_coco(split: str) -> list[Fact]:
    """Annotations and images of a split; nothing where there is no COCO at all."""
    coco, name = root() / "coco", f"COCO {split}"
    if not coco.is_dir():
        return []
    file = coco / "annotations" / f"instances_{split}.json"
    try:
        expected = count_listed_images(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        advice = "unpack annotations_trainval2017.zip of cocodataset.org in coco again"
        return [Fact(GAP, name, f"{file}: {reason}", advice)]
    found = count_images(coco / split)
    words = f"{found:,} of {expected:,} images in {coco / split}"
    if found < expected:
        return [Fact(GAP, name, words, f"unpack {split}.zip of cocodataset.org in coco")]
    return [Fact(OK, name, words)]


def count_images(folder: Path) -> int:
    """JPEG files in a folder; zero where there is no folder."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(".jpg") for entry in entries)


def count_listed_images(file: Path) -> int:
    """Images that an annotation file of instances lists.

    It is read as bytes: as JSON the largest of COCO would take gigabytes of memory. No name in
    these files has a brace, so a file whose braces do not match was cut.

    Raises:
        OSError: no such file.
        ValueError: it is empty, cut, or without images, annotations or categories.
    """
    keys = [b'"images"', b'"annotations"', b'"categories"', b'"file_name"', b"{", b"}"]
    counts = dict.fromkeys(keys, 0)
    overlap = b""
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            for key in keys:
                # Before this chunk lies at most one byte less than a whole key, or it counts twice.
                before = overlap[max(0, len(overlap) - len(key) + 1) :]
                counts[key] += (before + chunk).count(key)
            overlap = (overlap + chunk)[-max(map(len, keys)) :]
    if not overlap:
        raise ValueError("the file is empty")
    if counts[b"{"] != counts[b"}"] or not overlap.rstrip().endswith(b"}"):
        raise ValueError("the file is cut")
    missing = [key.decode() for key in keys[:3] if not counts[key]]
    if missing:
        raise ValueError(f"not a COCO file, it has no {', '.join(missing)}")
    return counts[b'"file_name"']
