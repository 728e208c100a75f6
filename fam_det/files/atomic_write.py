"""Files that are written whole or not at all, whenever the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file in the same folder, which replaces ``path`` when the context ends.

    If the context ends in an exception, the old file stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        _sync(temporary)  # a power failure could otherwise keep the rename without the content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)  # a rename is only safe once its folder is on the disk


def atomic_write_text(path: Path, text: str) -> None:
    """Replaces a text file: a reader sees the old text or the new one."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Removes the temporary files of killed processes whose targets match a ``glob`` pattern.

    Call it before this process writes any: in a container the killed one had the same number.
    """
    for file in folder.glob(f".{pattern}.*"):
        number = file.suffix[1:]
        if number.isdigit() and (int(number) == os.getpid() or not _is_running(int(number))):
            file.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (OSError, OverflowError) as error:  # another user's, or no process number, may be
        return not isinstance(error, ProcessLookupError)
    return True


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
