"""Writes files atomically: after a kill or a power failure they are complete or unchanged."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file in the same folder, which replaces ``path`` when the context ends.

    If the context ends in an exception, the old file is kept.
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

    Call it before this process writes any: in a container the killed one had the same PID.
    """
    for file in folder.glob(f".{pattern}.*"):
        pid = file.suffix[1:]
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_running(int(pid))):
            file.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only checks
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, or a number that is no PID
        return True
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
