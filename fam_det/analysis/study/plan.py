"""What of a study is still to do, read from its results and output folders."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fam_det.analysis.study.child import made_by
from fam_det.analysis.study.definition import RunDefinition, Study
from fam_det.analysis.study.jobs import Job, needed_job, reported, trials
from fam_det.analysis.study.results import Results

CHECKPOINT = "model_final.pth"  # what both training tools write last, and other runs need


class Plan:
    """The jobs of a study, and which of them come next.

    Args:
        study: what is asked.
        results: where results are kept.
        outputs: where the trainings write.
        only: names of the runs to do; the runs that these need are done as well.
    """

    def __init__(
        self, study: Study, results: Results, outputs: Path, only: Sequence[str] | None = None
    ) -> None:
        self.study, self.results, self.outputs = study, results, outputs
        self.runs = [study.runs[name] for name in (study.runs if only is None else only)]
        self.failed: dict[str, str] = {}  # why, by the job's name, in this call

    def folder(self, job: Job) -> Path:
        """The job's output folder."""
        return self.outputs / job.name

    def known_jobs(self) -> Iterator[Job]:
        """Every job whose definition is known now; trials first, then seed by seed."""
        for run in self.runs:
            yield from trials(self.study, run)
        known = [(run, chosen) for run in self.runs if (chosen := self.chosen(run)) is not None]
        seeds = sorted({seed for run in self.runs for seed in run.seeds})
        for seed in seeds:  # every run's first seed before any run's second: pairs come early
            for run, chosen in known:
                yield from (job for job in reported(self.study, run, chosen) if job.seed == seed)

    def chosen(self, run: RunDefinition) -> Mapping[str, Any] | None:
        """The chosen value by its key, {} where nothing is chosen, None while it is open."""
        return choose(self.study, run, self.results, self.failed)

    def to_do(self) -> list[Job]:
        """Jobs without a result, those that others need first."""
        todo: dict[str, Job] = {}
        for job in self.known_jobs():
            if job.name in self.failed or not self.is_open(job):
                continue
            needed = needed_job(self.study, job)
            if needed is not None and needed.name in self.failed:
                self.failed[job.name] = f"{needed.title} failed"
                continue
            if needed is not None and not self.has_checkpoint(needed):
                todo.setdefault(needed.name, needed)
            todo.setdefault(job.name, job)
        return sorted(todo.values(), key=lambda job: job.run.needs is not None)

    def is_open(self, job: Job) -> bool:
        """Whether the job has no result, or only a failure."""
        result = self.results.read(job)
        return result is None or bool(result.failure)

    def is_ready(self, job: Job) -> bool:
        """Whether the job that this one needs has left its checkpoint."""
        needed = needed_job(self.study, job)
        return needed is None or self.has_checkpoint(needed)

    def has_checkpoint(self, job: Job) -> bool:
        """Whether the job has left the checkpoint that other jobs need."""
        folder = self.folder(job)
        return made_by(job, folder) and (folder / CHECKPOINT).exists()

    def undecided(self) -> list[RunDefinition]:
        """Runs whose value is not chosen yet."""
        return [run for run in self.runs if self.chosen(run) is None]

    def stale(self) -> list[Job]:
        """Jobs that have only a result of another definition."""
        return [job for job in self.known_jobs() if self.results.is_stale(job)]


def choose(
    study: Study, run: RunDefinition, results: Results, failed: Mapping[str, str] | None = None
) -> Mapping[str, Any] | None:
    """The value that did best on the extra seed, by its key; the first of equals.

    Args:
        study: which the run is of.
        run: whose value is chosen.
        results: of the trials.
        failed: trials that have failed in this call and lose, such as a diverged one; other failed
            ones are open, to be tried again. None: every failed one loses.

    Returns:
        {} where nothing is chosen; None while a trial is open, or where all of them failed.
    """
    best: tuple[float, Mapping[str, Any]] | None = None
    for job in trials(study, run):
        result = results.read(job)
        if result is None or (result.failure and failed is not None and job.name not in failed):
            return None
        value = result.figures.get(study.metric)
        if value is not None and (best is None or value > best[0]):
            best = value, job.chosen
    if run.choose is None:
        return {}
    return best[1] if best else None
