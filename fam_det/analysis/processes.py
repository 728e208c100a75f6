"""What a program that starts trainings needs of the operating system."""

import contextlib
import ctypes
import fcntl
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder; the claim ends with this process, however it ends.

    Raises:
        BlockingIOError: another process is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def end_with_parent(signal_number: signal.Signals) -> Callable[[], None] | None:
    """For ``preexec_fn``: on Linux the system ends the child with us, be it by ``kill -9``.

    A training left behind would write into the same folder as the one that takes over.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: after the fork less is safe
    return lambda: prctl(PR_SET_PDEATHSIG, signal_number)
