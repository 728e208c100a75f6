"""Locks folders, and runs trainings as child processes on separate cores."""

import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fam_det.analysis.jobs import DEFINITION_FILE, Job
from fam_det.files.atomic_write import atomic_write_text

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_SECONDS = 10  # between SIGTERM and SIGKILL
ERROR = re.compile(r"^\w[\w.]*(Error|Exception|Interrupt)\b|^\S+: ")
MAX_JOBS = 4  # trainings at once by default, of about 1.5 GB each


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks a folder, at most until this process ends; BlockingIOError if another has locked it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@dataclass(frozen=True)
class Slot:
    """Resources of one training: CPU cores, and a GPU's name or None to set no GPU."""

    number: int
    cores: tuple[int, ...]
    gpu: str | None = None


def make_slots(jobs: int | None, gpus: Sequence[str]) -> list[Slot]:
    """Divides the cores among trainings, with one of the GPUs for each if there are any.

    By default ``jobs`` is the number of GPUs or, without one, of cores, at most four.
    """
    on_linux = sys.platform == "linux"
    cores = sorted(os.sched_getaffinity(0)) if on_linux else list(range(os.cpu_count() or 1))
    count = jobs or len(gpus) or min(len(cores), MAX_JOBS)
    # Trainings on shared cores would wait for each other in every parallel loop.
    share = max(len(cores) // count, 1)
    starts = [i * share % len(cores) for i in range(count)]
    return [
        Slot(i, tuple(cores[start : start + share]), gpus[i % len(gpus)] if gpus else None)
        for i, start in enumerate(starts)
    ]


class Training:
    """A running job.

    It resumes what its output folder has of the same definition, and deletes another definition's.

    Raises:
        ValueError: the folder has files that no study has written.
    """

    def __init__(
        self, job: Job, command: Sequence[str], folder: Path, options: Sequence[str], slot: Slot
    ) -> None:
        self.job, self.folder, self.slot = job, folder, slot
        self.log = folder / "study.log"
        self.resumed = prepare_folder(job, folder)
        self.started = time.monotonic()
        arguments = [*command, "--config-file", job.run.config, *["--resume"] * self.resumed]
        arguments += [*options, "OUTPUT_DIR", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": str(len(slot.cores))}
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C must not reach it: stop_all ends it
                preexec_fn=_prepare_child(slot.cores),
            )

    def failure(self, settings: Mapping[str, str]) -> str:
        """Returns the log's last line that looks like an error, without paths of this machine."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = [line.strip() for line in lines if line.strip()] or ["no output"]
        last = next((line for line in reversed(lines[-20:]) if ERROR.match(line)), lines[-1])
        for name, value in settings.items():
            last = last.replace(value, f"{{{name}}}") if value else last
        last = last.replace(f"{Path.cwd()}/", "")
        return f"exit status {self.process.returncode}: {last[:300]}; see {self.log}"

    def signal_group(self, number: int) -> None:
        """Sends a signal to the process and its children, if any are left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


def run_attached(command: Sequence[str]) -> int:
    """Runs a command to its end, and forwards SIGTERM and Ctrl-C to it.

    Returns its exit code, or 128 plus the number of a signal that ended it or was forwarded.
    """
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def forward_signal(number: int, _: FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    old_handlers = {number: signal.signal(number, forward_signal) for number in SIGNALS}
    try:
        child = subprocess.Popen(command, preexec_fn=_prepare_child())
        children.append(child)
        for number in received:  # before the child was started
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code or (128 + received[0] if received else 0)


def stop_all(trainings: Sequence[Training]) -> None:
    """Terminates the processes and their children, and kills those that take too long."""
    for training in trainings:
        training.signal_group(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    for training in trainings:
        with contextlib.suppress(subprocess.TimeoutExpired):
            training.process.wait(timeout=max(end - time.monotonic(), 0.1))
        training.signal_group(signal.SIGKILL)  # remaining children
        training.process.wait()


def prepare_folder(job: Job, folder: Path) -> bool:
    """Prepares an output folder; returns whether it has a checkpoint to resume from."""
    tag = folder / "last_checkpoint"
    if job.owns(folder) and tag.exists() and (folder / tag.read_text().strip()).is_file():
        return True
    removed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.exists():
        others = [
            file for file in folder.iterdir() if not file.name.startswith(f".{DEFINITION_FILE}")
        ]
        if others and not (folder / DEFINITION_FILE).exists():
            raise ValueError(
                f"{folder}: holds files, but none is {DEFINITION_FILE!r}: not a study's; move it"
            )
        folder.rename(removed)  # first, so that a killed removal leaves no incomplete folder
        shutil.rmtree(removed)
    atomic_write_text(folder / DEFINITION_FILE, job.definition)
    return False


def _prepare_child(cores: Sequence[int] = ()) -> Callable[[], None] | None:
    """Binds a child to some cores, and makes it end with this process, even on ``kill -9``.

    An orphaned training would write into the same folder as the one that resumes it. Linux only.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork: loading after it is not safe

    def prepare() -> None:
        if cores:
            os.sched_setaffinity(0, cores)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare
