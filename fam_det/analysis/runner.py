"""Runs a study's jobs: skips finished ones, resumes interrupted ones, and shows the progress."""

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from fam_det.analysis.jobs import Job
from fam_det.analysis.plan import CHECKPOINT, Plan
from fam_det.analysis.processes import Slot, Training, lock_folder, stop_all
from fam_det.analysis.results import Result, read_output
from fam_det.analysis.runs import read_config
from fam_det.files.metrics_file import iterations_done

POLL_SECONDS = 0.25
DRAW_SECONDS = 1  # between two updates of the line on a terminal


class Runner:
    """Runs the jobs of a plan.

    Args:
        plan: the jobs.
        settings: values of the placeholders.
        command: the training tool.
        options: KEY VALUE pairs for every training, which change no result.
        on_result: called after every result.
        line_seconds: time between two lines of progress without a terminal.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Mapping[str, str],
        command: Sequence[str],
        *,
        options: Sequence[str] = (),
        on_result: Callable[[], object] = lambda: None,
        line_seconds: float = 300.0,
    ) -> None:
        self.plan, self.settings, self.command = plan, settings, command
        self.options, self.on_result = list(options), on_result
        self.progress = Progress(plan, line_seconds)
        self.running: list[Training] = []

    def run(self, slots: Sequence[Slot]) -> None:
        """Runs all jobs, one per slot at a time; stops the trainings whenever this call ends.

        Raises:
            BlockingIOError: another process runs this study.
        """
        with lock_folder(self.plan.outputs):
            for job in filter(self.plan.results.is_stale, self.plan.known_jobs()):
                text = f"{job.title}: its result is of another definition; done again\n"
                self.progress.write(text)
            try:
                while self._start(slots):
                    self._wait(len(slots))
            finally:
                stop_all(self.running)
                self.progress.write("")

    def _start(self, slots: Sequence[Slot]) -> bool:
        """Fills the free slots; returns whether anything runs."""
        todo = self.plan.to_do()
        for slot in slots:
            if slot in [training.slot for training in self.running]:
                continue
            job = next(filter(self._can_start, todo), None)
            if job is None:
                break
            needs = {"needs": str(self.plan.folder(job.needs))} if job.needs else {}
            options = [*job.arguments({**self.settings, **needs}), *self.options]
            training = Training(job, self.command, self.plan.folder(job), options, slot)
            self.running.append(training)
        return bool(self.running)

    def _can_start(self, job: Job) -> bool:
        busy = [training.job.name for training in self.running]
        if job.name in busy or (job.needs and job.needs.name in busy):
            return False
        return self.plan.is_ready(job)

    def _wait(self, slots: int) -> None:
        while not (ended := [t for t in self.running if t.process.poll() is not None]):
            self.progress.show(self.running, slots)
            time.sleep(POLL_SECONDS)
        for training in ended:
            self.running.remove(training)
            self._finish(training)

    def _finish(self, training: Training) -> None:
        job, metric = training.job, self.plan.study.metric
        try:
            if training.process.returncode != 0:
                raise ValueError(training.failure(self.settings))
            if not (training.folder / CHECKPOINT).exists():
                raise ValueError(f"it ended without a {CHECKPOINT}; see {training.log}")
            result = read_output(job, training.folder, metric)
            for checkpoint in training.folder.glob("model_[0-9]*.pth"):
                checkpoint.unlink()  # saves disk space; the final one stays
        except ValueError as error:
            result = Result(job.definition, {}, [], 0.0, str(error))
            self.plan.failed[job.name] = str(error)
            if training.resumed:  # the checkpoint may be the cause: start from scratch next time
                (training.folder / "last_checkpoint").unlink(missing_ok=True)
        # A teacher that has a result is trained again if others need its lost checkpoint.
        if self.plan.is_open(job):
            self.plan.results.write(job, result)
            self.on_result()
        text = result.failure or f"{metric} {result.figures[metric]:.2f}"
        self.progress.write(f"{job.title}: {text}\n")


class Progress:
    """Shows the running jobs and the remaining time: one line on a terminal, otherwise a log."""

    def __init__(self, plan: Plan, line_seconds: float) -> None:
        self._plan = plan
        self._clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # the line on a terminal
        self._seconds = DRAW_SECONDS if self._clear else line_seconds
        self._shown = float("-inf")

    def show(self, running: Sequence[Training], slots: int) -> None:
        """Writes the line, such as ``12 to do, about 1:10:00 left; FAM-KD, seed 2: 45 %``."""
        now = time.monotonic()
        if now - self._shown < self._seconds:
            return
        self._shown = now
        jobs = self._plan.to_do()
        waiting = sum(len(run.seeds) for run in self._plan.undecided())
        done = {training.job.name: fraction_done(training) for training in running}
        text = f"{len(jobs) + waiting} to do"
        text += f", {len(self._plan.failed)} failed" if self._plan.failed else ""
        if by_run := self._seconds_by_run(running, done):
            mean = statistics.mean(by_run.values())
            left = [by_run.get(job.run.name, mean) * (1 - done.get(job.name, 0)) for job in jobs]
            total = (sum(left) + waiting * mean) / slots
            seconds = max([total, *left])  # a single job cannot be divided among slots
            text += f", about {tqdm.format_interval(seconds)} left"
        for training in running:
            text += f"; {training.job.title}: {done[training.job.name]:.0%}"
        if self._clear:
            self.write(text[: shutil.get_terminal_size().columns - 1])
        else:
            self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Replaces the line on a terminal; a text that ends in a newline stays."""
        print(f"{self._clear}{text}", end="", file=sys.stderr, flush=True)

    def _seconds_by_run(
        self, running: Sequence[Training], done: Mapping[str, float]
    ) -> dict[str, float]:
        """Estimates a job's seconds from finished seeds of its run, or from the running one."""
        finished: dict[str, list[float]] = {}
        for job in self._plan.known_jobs():
            result = self._plan.results.read(job)
            if result is not None and not result.failure:
                finished.setdefault(job.run.name, []).append(result.seconds)
        by_run = {name: statistics.mean(seconds) for name, seconds in finished.items()}
        for training in running:
            fraction = done[training.job.name]
            if fraction > 0.1 and not training.resumed:
                seconds = (time.monotonic() - training.started) / fraction
                by_run.setdefault(training.job.run.name, seconds)
        return by_run


def fraction_done(training: Training) -> float:
    """Returns the fraction of done iterations of a running training."""
    try:
        max_iter = int(read_config(training.folder / "config.yaml")["SOLVER"]["MAX_ITER"])
        return iterations_done(training.folder / "metrics.json", max_iter, time.time()) / max_iter
    except (ValueError, KeyError, OSError):  # the files are not written yet
        return 0.0
