"""``data.json`` of a run: digests of its annotation files, by data set.

Tools name a user's data as they like, and files are moved and corrected: two runs have the same
data where the digests are the same. This module needs no PyTorch, as ``metrics_file``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from fam_det.files.atomic_write import atomic_write_text

NAME = "data.json"


def write_data_file(folder: Path, entries: Iterable[tuple[str, str, str]]) -> None:
    """Writes the digests of ``DATASETS.COCO``'s files: name, annotation file, image folder each."""
    digests = {name: digest(file) for name, file, _ in entries}
    atomic_write_text(folder / NAME, json.dumps(digests, indent=2) + "\n")


def read_data_file(folder: Path, entries: Iterable[tuple[str, str, str]]) -> Mapping[str, str]:
    """Returns the digests that a run has written.

    Of an older run without them, those of the files as they are now; the path of one that is gone.
    """
    if (folder / NAME).is_file():
        found: dict[str, str] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return found
    return {
        name: digest(file) if Path(file).is_file() else str(Path(file).resolve())
        for name, file, _ in entries
    }


def digest(file: str) -> str:
    """Returns that of a file's bytes."""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
