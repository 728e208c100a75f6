"""A job's training as a process of its own, on cores or a GPU of its own."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fam_det.study.jobs import Job
from fam_det.study.results import write_whole

PR_SET_PDEATHSIG = 1  # linux/prctl.h
MARK = "definition"  # file in an output folder that says which job it is of


@dataclass(frozen=True)
class Slot:
    """What one training may use.

    Attributes:
        cores: numbers of the CPU cores.
        gpu: number of the GPU, None to leave the GPUs as they are.
    """

    cores: Sequence[int]
    gpu: str | None = None


def make_slots(jobs: int | None, gpus: Sequence[str]) -> list[Slot]:
    """Share out the cores, and one GPU a training where there are any.

    Args:
        jobs: how many trainings at once; None for one a GPU, or one a core but four at most.
        gpus: names for ``CUDA_VISIBLE_DEVICES``.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = cores or list(range(os.cpu_count() or 1))
    count = jobs or len(gpus) or min(len(cores), 4)
    share = max(len(cores) // count, 1)
    starts = [i * share % len(cores) for i in range(count)]
    return [
        Slot(cores[start : start + share], gpus[i % len(gpus)] if gpus else None)
        for i, start in enumerate(starts)
    ]


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
        settings: what the placeholders stand for.
        slot: where it runs.
    """

    def __init__(
        self,
        job: Job,
        command: Sequence[str],
        folder: Path,
        settings: Mapping[str, str],
        slot: Slot,
    ) -> None:
        self.job, self.folder, self.slot = job, folder, slot
        self.log = folder / "study.log"
        resume = self._prepare()
        arguments = [*command, "--config-file", job.run.config, *resume]
        arguments += [*job.arguments(settings), "OUTPUT_DIR", str(folder)]
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
                preexec_fn=self._before_start if sys.platform == "linux" else None,
            )

    def _prepare(self) -> list[str]:
        """Make the folder ready; gives ``--resume`` if there is a checkpoint of this definition."""
        if not made_by(self.job, self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            write_whole(self.folder / MARK, self.job.definition)
        return ["--resume"] if (self.folder / "last_checkpoint").exists() else []

    def _before_start(self) -> None:
        """Keep to the slot's cores, and end when the study is killed."""
        os.sched_setaffinity(0, self.slot.cores)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def failure(self) -> str:
        """The last line that the training wrote, which says why it failed."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return f"exit status {self.process.returncode}: {last}"[:300]

    def stop(self) -> None:
        """End the process and its own children."""
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
