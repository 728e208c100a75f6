"""``data.json`` of a run: digests of its annotation files, by data set.

Names of data sets are arbitrary, and files are moved and corrected: equal digests show that two
runs have the same data. Like ``metrics_file`` this module needs no PyTorch.
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

    For an older run without them: digests of the current files, and the paths of missing ones.
    """
    if (folder / NAME).is_file():
        digests: dict[str, str] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return digests
    return {
        name: digest(file) if Path(file).is_file() else str(Path(file).resolve())
        for name, file, _ in entries
    }


def digest(file: str) -> str:
    """Returns the digest of a file's bytes."""
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
