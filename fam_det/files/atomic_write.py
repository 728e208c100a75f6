"""Files that are written whole or not at all, whenever the process or the machine stops."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write in the same folder; it takes the place of ``path`` at the end of the context.

    Until then, and if the context ends in an exception, the old file stays as it is. What is on the
    disk before the rename is on the disk after a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Replace a text file at once: a reader sees the old text or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of files that match a pattern of ``glob``.

    Call it before this process writes any: in a container the killed one had the same number.
    """
    for file in folder.glob(f".{pattern}.*"):
        number = file.suffix[1:]
        if number.isdigit() and (int(number) == os.getpid() or not _is_running(int(number))):
            file.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
