"""A job's training as a process of its own, on cores or a GPU of its own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fam_det.analysis.processes import end_with_parent
from fam_det.analysis.study.jobs import Job
from fam_det.files.atomic_write import atomic_write_text

MARK = "definition"  # file in an output folder that says which job it is of
LOG = "study.log"
STOP_SECONDS = 10  # between SIGTERM and SIGKILL
ERROR = re.compile(r"^\w[\w.]*(Error|Exception|Interrupt)\b|^\S+: ")
MOST_CORES_USED = 4  # trainings at once by default, of about 1.5 GB each


@dataclass(frozen=True)
class Slot:
    """What one training may use.

    Attributes:
        number: of the slot.
        cores: numbers of the CPU cores.
        gpu: name for ``CUDA_VISIBLE_DEVICES``, None to leave the GPUs as they are.
    """

    number: int
    cores: tuple[int, ...]
    gpu: str | None = None


def make_slots(jobs: int | None, gpus: Sequence[str]) -> list[Slot]:
    """Share out the cores, and one GPU a training where there are any.

    Two trainings on the same cores wait for each other in every parallel loop.

    Args:
        jobs: how many trainings at once; None for one a GPU, or one a core but four at most.
        gpus: names for ``CUDA_VISIBLE_DEVICES``.
    """
    cores = available_cores()
    count = jobs or len(gpus) or min(len(cores), MOST_CORES_USED)
    share = max(len(cores) // count, 1)
    starts = [i * share % len(cores) for i in range(count)]
    return [
        Slot(i, tuple(cores[start : start + share]), gpus[i % len(gpus)] if gpus else None)
        for i, start in enumerate(starts)
    ]


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def made_by(job: Job, folder: Path) -> bool:
    """Whether an output folder is of this very job."""
    mark = folder / MARK
    return mark.exists() and mark.read_text() == job.definition


class Training:
    """A job that runs.

    Args:
        job: what is run.
        command: the training tool, to which arguments are added.
        folder: the job's output folder. What another definition left there is deleted; what this
            one left is resumed.
        options: KEY VALUE pairs.
        slot: where it runs.

    Raises:
        ValueError: the folder holds what no study has written.
    """

    def __init__(
        self, job: Job, command: Sequence[str], folder: Path, options: Sequence[str], slot: Slot
    ) -> None:
        self.job, self.folder, self.slot = job, folder, slot
        self.log = folder / LOG
        self.resumed = prepare(job, folder)
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
                start_new_session=True,  # Ctrl-C is ours to pass on
                preexec_fn=_prepare_child(slot.cores),
            )

    @property
    def where_log(self) -> str:
        """Where to read on."""
        return f"see {self.log}"

    def failure(self, settings: Mapping[str, str]) -> str:
        """The last line that says what went wrong, without paths of this machine."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = [line.strip() for line in lines if line.strip()] or ["no output"]
        last = next((line for line in reversed(lines[-20:]) if ERROR.match(line)), lines[-1])
        for name, value in settings.items():
            last = last.replace(value, f"{{{name}}}") if value else last
        last = last.replace(f"{Path.cwd()}/", "")
        return f"exit status {self.process.returncode}: {last[:300]}; {self.where_log}"

    def forget_bad_checkpoint(self) -> None:
        """After a resumed training has failed, begin anew next: its checkpoint may be the cause."""
        if self.resumed:
            (self.folder / "last_checkpoint").unlink(missing_ok=True)

    def delete_checkpoints(self) -> None:
        """Keep the final checkpoint alone: a study's worth of the others is large."""
        for checkpoint in self.folder.glob("model_[0-9]*.pth"):
            checkpoint.unlink()


def stop_all(trainings: Sequence[Training]) -> None:
    """End the processes and their own children, by force where they take too long."""
    for training in trainings:
        _signal_group(training, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    for training in trainings:
        with contextlib.suppress(subprocess.TimeoutExpired):
            training.process.wait(timeout=max(end - time.monotonic(), 0.1))
        _signal_group(training, signal.SIGKILL)  # whoever of the group is left
        training.process.wait()


def _signal_group(training: Training, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(training.process.pid, number)


def prepare(job: Job, folder: Path) -> bool:
    """Make an output folder ready; whether it has a checkpoint of this definition to go on from.

    Raises:
        ValueError: the folder holds what no study has written.
    """
    if made_by(job, folder) and has_last_checkpoint(folder):
        return True
    doomed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        others = [file for file in folder.iterdir() if not file.name.startswith(f".{MARK}")]
        if others and not (folder / MARK).exists():
            raise ValueError(f"{folder}: holds files, but none is {MARK!r}: not a study's; move it")
        folder.rename(doomed)  # first: an interrupted removal leaves nothing half there
        shutil.rmtree(doomed)
    atomic_write_text(folder / MARK, job.definition)
    return False


def has_last_checkpoint(folder: Path) -> bool:
    """Whether the last checkpoint that Detectron2 took note of is there."""
    tag = folder / "last_checkpoint"
    name = tag.read_text().strip() if tag.exists() else ""
    return bool(name) and (folder / name).is_file()


def _prepare_child(cores: Sequence[int]) -> Callable[[], None] | None:
    """On Linux, keep the child to its cores, and end it with us, be it by ``kill -9``."""
    if sys.platform != "linux":
        return None
    with_us = end_with_parent(signal.SIGKILL)

    def prepare_child() -> None:
        os.sched_setaffinity(0, cores)
        if with_us is not None:
            with_us()

    return prepare_child
