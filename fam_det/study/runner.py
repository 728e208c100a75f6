"""Run a study's jobs: what is done is skipped, what was interrupted goes on."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from fam_det.study.child import Slot, Training, made_by
from fam_det.study.definition import RunDefinition, Study
from fam_det.study.jobs import Job, needed_job, reported, trials
from fam_det.study.results import Result, Results, read_output

POLL_SECONDS = 0.5


class Runner:
    """Works through a study.

    Args:
        study: what is asked.
        results: where results are kept.
        outputs: where the trainings write.
        settings: what the placeholders stand for.
        command: the training tool.
        only: names of the runs to do; the runs that these need are done as well.
    """

    def __init__(
        self,
        study: Study,
        results: Results,
        outputs: Path,
        settings: Mapping[str, str],
        command: Sequence[str],
        only: Sequence[str] | None = None,
    ) -> None:
        self.study, self.results, self.outputs = study, results, outputs
        self.settings, self.command = settings, command
        names = list(study.runs) if only is None else list(only)
        self.runs = [study.runs[name] for name in names]
        self.failed: dict[str, str] = {}  # by the job's name, in this call
        self.seconds: list[float] = []

    # ------------------------------------------------------------ what is to do

    def jobs(self) -> Iterator[Job]:
        """Every job whose definition is known now; trials first, seed by seed then."""
        for run in self.runs:
            yield from trials(self.study, run)
        known = [(run, self.chosen(run)) for run in self.runs]
        seeds = sorted({seed for run in self.runs for seed in run.seeds})
        for seed in seeds:  # every run's first seed before any run's second
            for run, chosen in known:
                if chosen is not None and seed in run.seeds:
                    yield from (j for j in reported(self.study, run, chosen) if j.seed == seed)

    def chosen(self, run: RunDefinition) -> Mapping[str, object] | None:
        """The chosen value by its key, {} where nothing is chosen, None while it is open."""
        return choose(self.study, run, self.results, self.failed)

    def to_do(self) -> list[Job]:
        """Jobs without a result, those that others need first."""
        todo: dict[str, Job] = {}
        for job in self.jobs():
            if not self._is_open(job):
                continue
            needed = needed_job(self.study, job)
            if needed is not None and needed.name in self.failed:
                self.failed[job.name] = f"{needed.title} failed"
                continue
            if needed is not None and not self.has_checkpoint(needed):
                todo.setdefault(needed.name, needed)
            todo.setdefault(job.name, job)
        return sorted(todo.values(), key=lambda job: job.run.needs is not None)

    def _is_open(self, job: Job) -> bool:
        result = self.results.read(job)
        return job.name not in self.failed and (result is None or bool(result.failure))

    def has_checkpoint(self, job: Job) -> bool:
        """Whether the job has left the checkpoint that other jobs need."""
        folder = self.outputs / job.name
        return made_by(job, folder) and (folder / "model_final.pth").exists()

    def remaining(self) -> int:
        """Number of jobs still to do, those included whose value is not chosen yet."""
        waiting = [run for run in self.runs if self.chosen(run) is None]
        return len(self.to_do()) + sum(len(run.seeds) for run in waiting)

    # ------------------------------------------------------------ doing it

    def run(self, slots: Sequence[Slot]) -> None:
        """Do all jobs, one a slot at a time; a KeyboardInterrupt stops the trainings first."""
        running: list[Training] = []
        try:
            while True:
                free = [slot for slot in slots if slot not in [t.slot for t in running]]
                if free and self._start(free, running):
                    self._say(running, len(slots))
                if not running:
                    return
                while all(training.process.poll() is None for training in running):
                    time.sleep(POLL_SECONDS)
                for training in [t for t in running if t.process.poll() is not None]:
                    running.remove(training)
                    self._finish(training)
        finally:
            for training in running:
                training.stop()

    def _start(self, free: Sequence[Slot], running: list[Training]) -> bool:
        """Fill the free slots; whether anything was started."""
        busy = {training.job.name for training in running}
        for job in self.to_do():
            needed = needed_job(self.study, job)
            ready = needed is None or self.has_checkpoint(needed)
            if job.name in busy or not ready:
                continue
            if needed is not None and needed.name in busy:
                continue
            slot = next(s for s in free if s not in [t.slot for t in running])
            settings = dict(self.settings)
            if needed is not None:
                settings["needs"] = str(self.outputs / needed.name)
            folder = self.outputs / job.name
            running.append(Training(job, self.command, folder, settings, slot))
            if len(running) == len(busy) + len(free):
                break
        return len(running) > len(busy)

    def _finish(self, training: Training) -> None:
        job = training.job
        try:
            if training.process.returncode != 0:
                raise ValueError(training.failure())
            result = read_output(job, training.folder, self.study.metric)
            self.seconds.append(result.seconds)
        except ValueError as error:
            result = Result(job.definition, {}, [], 0.0, str(error))
            self.failed[job.name] = str(error)
        self.results.write(job, result)
        figure = result.figures.get(self.study.metric)
        outcome = result.failure or f"{self.study.metric} {figure:.2f}"
        print(f"{job.title}: {outcome}", file=sys.stderr, flush=True)

    def _say(self, running: Sequence[Training], slots: int) -> None:
        """What is left, what runs, and how long it will take."""
        left = self.remaining()
        line = f"{left} to do, running: {'; '.join(t.job.title for t in running)}"
        if self.seconds:
            seconds = sum(self.seconds) / len(self.seconds) * left / slots
            line += f"; about {tqdm.format_interval(seconds)} left"
        print(line, file=sys.stderr, flush=True)


def choose(
    study: Study, run: RunDefinition, results: Results, failed: Mapping[str, str]
) -> Mapping[str, object] | None:
    """The value that did best on the extra seed, by its key.

    {} where nothing is chosen; None while a trial is open, or where all of them failed.
    """
    best: tuple[float, Mapping[str, object]] | None = None
    for job in trials(study, run):
        result = results.read(job)
        if result is None or (result.failure and job.name not in failed):
            return None
        value = result.figures.get(study.metric)
        if value is not None and (best is None or value > best[0]):
            best = value, job.chosen
    if run.choose is None:
        return {}
    return best[1] if best else None
