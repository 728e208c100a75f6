"""How far a study is: one line on a terminal, a line now and then elsewhere."""

import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

from fam_det.analysis.report.runs import read_config
from fam_det.analysis.study.child import Training
from fam_det.analysis.study.jobs import Job
from fam_det.analysis.study.plan import Plan
from fam_det.training.metrics import iterations_done

LINE_SECONDS = 300  # between two lines where there is no terminal
DRAW_SECONDS = 1  # between two reads of the running trainings' metrics


class Progress:
    """Tells a user what runs and how long the rest takes.

    Args:
        stream: where to write; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._shown = float("-inf")
        self._jobs: list[Job] = []  # to do, the running ones included
        self._waiting = 0  # jobs whose value is not chosen yet
        self._failed = 0
        self._slots = 1
        self._seconds: dict[str, float] = {}  # a job's, by the name of its run

    def plan(self, plan: Plan, jobs: Sequence[Job], waiting: int, slots: int) -> None:
        """Take note of what is to do: jobs, and how many more that are not known yet."""
        self._jobs, self._waiting, self._slots = list(jobs), waiting, slots
        self._failed = len(plan.failed)
        known: dict[str, list[float]] = {}
        for job in plan.known_jobs():
            result = plan.results.read(job)
            if result is not None and not result.failure:
                known.setdefault(job.run.name, []).append(result.seconds)
        self._seconds = {name: statistics.mean(values) for name, values in known.items()}
        self._shown = float("-inf") if self._terminal else self._shown

    def show(self, running: Sequence[Training]) -> None:
        """Draw the line anew where that is due."""
        now = time.monotonic()
        if now - self._shown < (DRAW_SECONDS if self._terminal else LINE_SECONDS):
            return
        self._shown = now
        text = self.describe(running)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r{text[:width]:<{width}}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.close()
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave no half line behind."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def describe(self, running: Sequence[Training]) -> str:
        """Such as ``12 to do, about 1:10:00 left; FAM-KD, seed 2: 45 %``."""
        done = {training.job.name: fraction_done(training) for training in running}
        parts = [f"{training.job.title}: {done[training.job.name]:.0%}" for training in running]
        head = f"{len(self._jobs) + self._waiting} to do"
        head += f", {self._failed} failed" if self._failed else ""
        seconds = self._seconds_left(running, done)
        head += f", about {tqdm.format_interval(seconds)} left" if seconds is not None else ""
        return "; ".join([head, *parts])

    def _seconds_left(self, running: Sequence[Training], done: dict[str, float]) -> float | None:
        """A run takes as long as its other seeds did, otherwise as the mean of what is known."""
        of_runs = dict(self._seconds)
        for training in running:
            part, passed = done[training.job.name], time.monotonic() - training.started
            if part > 0.1 and not training.resumed:
                of_runs.setdefault(training.job.run.name, passed / part)
        if not of_runs:
            return None
        usual = statistics.mean(of_runs.values())
        left = [
            of_runs.get(job.run.name, usual) * (1 - done.get(job.name, 0.0)) for job in self._jobs
        ]
        total = sum(left) + self._waiting * usual
        return max([total / self._slots, *left])  # the last one runs alone


def fraction_done(training: Training) -> float:
    """Of a running training's iterations."""
    try:
        max_iter = int(read_config(training.folder / "config.yaml")["SOLVER"]["MAX_ITER"])
        return iterations_done(training.folder / "metrics.json", max_iter, time.time()) / max_iter
    except (ValueError, KeyError, OSError):  # it has only just begun
        return 0.0
