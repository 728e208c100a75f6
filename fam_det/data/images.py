"""Checks that image files are in their folder, safe to decode, and readable."""

import logging
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path, PurePath
from typing import IO
from urllib.parse import unquote

from PIL import Image, UnidentifiedImageError

from fam_det.files import short

logger = logging.getLogger(__name__)

# Pillow warns of a decompression bomb above this number: a quarter of a gigabyte in RGB.
MAX_PIXELS = 89_478_485
ORIENTATION = 0x0112  # EXIF tag; 5 to 8 exchange width and height
# Pillow's conversion of these modes to RGB clips at 255, which makes most of an image white.
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")


def check_name(file: object) -> None:
    """Raises a ValueError unless the name is a path."""
    if not isinstance(file, str) or not file or any(ord(letter) < 32 for letter in file):
        raise ValueError(f"file_name: got {short(file)}, expected a path")


def check_files(
    files: list[str], folder: Path, *, max_missing: int, follow_links: bool
) -> tuple[dict[str, str], list[str]]:
    """Checks that files are inside the image folder, which may itself be a link.

    Returns the names of those that the folder spells differently, by the given ones, and those that
    are missing: exporters on Windows write backslashes, others start with the folder's name, Label
    Studio quotes names as in URLs, and macOS decomposes accented letters.
    """
    spelled: dict[str, str] = {}
    outside, missing = [], files
    composed = (partial(unicodedata.normalize, form) for form in ("NFC", "NFD"))
    spellings: tuple[Callable[[str], str], ...] = (str, _slashes, unquote, *composed)
    for spell, start in product(spellings, ("", f"{folder.absolute().name}/")):
        respelled = {spell(file).removeprefix(start): file for file in missing}
        found = _find_files(respelled, folder)
        outside += [respelled[x] for x, leaves in found.items() if leaves]
        spelled |= {respelled[x]: x for x in found}
        missing = [file for file in missing if file not in spelled]
    if outside and not follow_links:
        raise ValueError(
            f"{len(outside)} of {len(files)} images are links that leave {str(folder)!r}, such as "
            f"{short(outside[0])}; if they are yours, add: DATASETS.FOLLOW_LINKS True"
        )
    if len(missing) > min(max_missing, len(files) // 2):
        advice = (
            _suggest_name(missing[0], folder) or "give the folder that the file names start from"
        )
        raise ValueError(
            f"{len(missing)} of {len(files)} images are not in {str(folder)!r}, such as "
            f"{short(missing[0])}; {advice}"
        )
    return {file: x for file, x in spelled.items() if file != x}, missing


def _slashes(file: str) -> str:
    return file.replace("\\", "/")


def _suggest_name(file: str, folder: Path) -> str:
    """Returns a message about a file that differs in its folder, case or suffix, "" for none."""
    path = PurePath(_slashes(unquote(file.partition("?")[0])))  # a URL may have a query
    for parent in dict.fromkeys((path.parent, PurePath())):
        known = _list_files(folder / parent, folder.resolve())
        for normalise in (str.casefold, lambda name: PurePath(name).stem.casefold()):
            for name in known:
                if normalise(name) == normalise(path.name):
                    return f"{short(str(parent / name))} is there, set file_name to that"
    return ""


def find_image(file: str, folder: Path) -> Path:
    """Returns the path of an image, in any spelling that ``check_files`` accepts."""
    spelled, _ = check_files([file], folder, max_missing=1, follow_links=True)
    return folder / spelled.get(file, file)


def _find_files(files: Collection[str], folder: Path) -> dict[str, bool]:
    """Returns for each existing file whether a link leads out of the folder to it.

    A ValueError names a file whose path leaves the folder without a link.
    """
    listed: dict[str, bool] = {}
    root, base = folder.resolve(), folder.absolute()
    for parent, file in {PurePath(file).parent: file for file in files}.items():
        leaves = not (base / parent).resolve().is_relative_to(root)
        if leaves and (".." in parent.parts or not (base / parent).is_relative_to(base)):
            advice = _suggest_name(PurePath(file).name, folder) or "expected a path inside it"
            raise ValueError(f"file_name: {short(file)} leaves the image folder; {advice}")
        for name, is_link_out in _list_files(base / parent, root).items():
            listed[str(parent / name)] = leaves or is_link_out
    paths = {file: str(PurePath(file)) for file in files}
    return {file: listed[path] for file, path in paths.items() if path in listed}


def _list_files(folder: Path, root: Path) -> dict[str, bool]:
    """Returns the names of the files in a folder, and whether each is a link that leaves the root.

    Listing the folder once is faster than a query for each file.
    """
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.is_symlink() and not Path(entry).resolve().is_relative_to(root)
                for entry in entries
                if entry.is_file()
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}  # the caller reports its files as missing
    except OSError as error:
        raise ValueError(f"{short(str(folder))}: {error.strerror}") from error


@contextmanager
def open_checked_image(stream: IO[bytes]) -> Iterator[Image.Image]:
    """Yields an image whose header is safe to decode; it is not decoded yet.

    Raises:
        ValueError: not an image, too large, more than 8 bits a channel, or a program.
        OSError: the file cannot be read.
    """
    try:
        image = Image.open(stream)
    except UnidentifiedImageError as error:
        stream.seek(0, os.SEEK_END)
        kind = "not an image, or of an unknown format" if stream.tell() else "is empty"
        raise ValueError(kind) from error
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(
                f"{width}x{height} pixels, expected at most {MAX_PIXELS:,} (a decompression "
                "bomb?); cut it into tiles"
            )
        if image.mode in DEEP_MODES:
            raise ValueError(
                f"16 or 32 bits a pixel ({image.mode}); convert it to 8 bits a channel"
            )
        if image.format == "EPS":
            raise ValueError("a PostScript program, which Ghostscript would run; convert it to PNG")
        yield image


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height of an image in its EXIF orientation, without decoding it."""
    is_transposed = image.getexif().get(ORIENTATION, 1) in range(5, 9)
    return image.size[::-1] if is_transposed else image.size


def error_reason(error: Exception, file: str) -> str:
    """Returns an error about an image as one line without its name."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = str(error).removeprefix(f"{file}: ").replace(f" for image {file}", "")
    text = " ".join(text.replace(f"'{file}'", "").split())
    if type(error) is ValueError and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(eq=False)
class UnreadableImages:
    """Counts unreadable files, and logs each once."""

    max_files: int
    reasons: dict[str, str] = field(default_factory=dict)  # by file

    def add(self, reasons: Mapping[str, str]) -> None:
        """Adds files and reasons; raises a ValueError for more than ``max_files``."""
        for file, reason in reasons.items():
            if file in self.reasons:
                continue
            self.reasons[file] = reason
            if len(self.reasons) > self.max_files:
                raise ValueError(
                    f"{file}: {reason}; DATALOADER.MAX_UNREADABLE lets a training skip "
                    f"{self.max_files} such images, and this is number {len(self.reasons)}"
                )
            logger.warning(
                "%s: %s; skipped (%d of at most %d)",
                *(file, reason, len(self.reasons), self.max_files),
            )
