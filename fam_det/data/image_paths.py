"""Names of image files in an annotation file: they stay in the image folder and are there."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from fam_det.files import short

logger = logging.getLogger(__name__)


def check_name(file: object) -> None:
    """Raise a ValueError for a name that is no path, or one that leads out of its folder."""
    if not isinstance(file, str) or not file or any(ord(letter) < 32 for letter in file):
        raise ValueError(f"file_name: got {short(file)}, expected a path")
    if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
        raise ValueError(
            f"file_name: {short(file)} leaves the image folder; expected a path inside it"
        )


def check_files(
    where: str, files: list[str], folder: Path, *, max_missing: int, follow_links: bool
) -> None:
    """Check that files are there, and in the folder.

    Args:
        where: start of a warning.
        files: names that ``check_name`` passed.
        folder: with the images; it may itself be a link.
        max_missing: files that may be missing, with a warning.
        follow_links: let a link in the folder lead out of it.

    Raises:
        ValueError: too many files that are missing, or a link that leads out.
    """
    there: dict[str, bool] = {}
    for part in {PurePath(file).parent for file in files}:
        there.update(_files_in(folder, part))
    missing = [file for file in files if str(PurePath(file)) not in there]
    outside = [file for file in files if there.get(str(PurePath(file)), False)]
    if outside and not follow_links:
        raise ValueError(
            f"{len(outside)} of {len(files)} images are links that leave {str(folder)!r}, such as "
            f"{short(outside[0])}; if they are yours, add: DATASETS.FOLLOW_LINKS True"
        )
    if len(missing) > max_missing:
        raise ValueError(
            f"{len(missing)} of {len(files)} images are not in {str(folder)!r}, such as "
            f"{short(missing[0])}; give the folder that the file names start from"
        )
    if missing:
        logger.warning(
            "%s: %d of %d images are missing, such as %r",
            *(where, len(missing), len(files), missing[0]),
        )


def _files_in(folder: Path, part: PurePath) -> Iterator[tuple[str, bool]]:
    """Files of a part by name relative to the folder, and whether each is a link that leads out.

    One listing of a folder is quicker than a look for each of its files.
    """
    try:
        if not (folder / part).is_dir():
            return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return
    root = folder.resolve()
    all_outside = not (folder / part).resolve().is_relative_to(root)
    with os.scandir(folder / part) as entries:
        for entry in entries:
            if entry.is_file():
                outside = all_outside or (
                    entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root)
                )
                yield str(part / entry.name), outside
