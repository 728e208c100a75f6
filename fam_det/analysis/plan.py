"""Determines the remaining jobs of a study from its results and output folders."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fam_det.analysis.jobs import Job, reported_jobs, trial_jobs
from fam_det.analysis.results import Results
from fam_det.analysis.study import RunDefinition, Study

CHECKPOINT = "model_final.pth"  # the training tools write it last; it is the teacher of other runs


class Plan:
    """The remaining jobs of a study, whose trainings write to ``outputs``.

    ``only`` names the runs to do, by default all; the runs that these need are done as well.
    """

    def __init__(
        self, study: Study, results: Results, outputs: Path, only: Sequence[str] | None = None
    ) -> None:
        self.study, self.results, self.outputs = study, results, outputs
        self.runs = [study.runs[name] for name in (study.runs if only is None else only)]
        self.failed: dict[str, str] = {}  # reasons by the names of jobs that failed in this call

    def folder(self, job: Job) -> Path:
        """Returns the job's output folder."""
        return self.outputs / job.name

    def known_jobs(self) -> Iterator[Job]:
        """Yields every job whose definition is known by now: trials first, then seed by seed."""
        for run in self.runs:
            yield from trial_jobs(self.study, run)
        reported: list[Job] = []
        for run in self.runs:
            chosen = self.chosen(run)
            if chosen is not None:
                reported += reported_jobs(self.study, run, chosen)
        # every run's first seed before any run's second: pairs come early
        yield from sorted(reported, key=lambda job: job.seed)

    def chosen(self, run: RunDefinition) -> Mapping[str, Any] | None:
        """Returns the chosen value by its key, {} without a choice, None while it is undecided."""
        return choose(self.study, run, self.results, self.failed)

    def undecided(self) -> list[RunDefinition]:
        """Returns the runs whose value is not chosen yet."""
        return [run for run in self.runs if self.chosen(run) is None]

    def to_do(self) -> list[Job]:
        """Returns the jobs without a result, first those that others need."""
        todo: dict[str, Job] = {}
        for job in self.known_jobs():
            if job.name in self.failed or not self.is_open(job):
                continue
            if job.needs and job.needs.name in self.failed:
                self.failed[job.name] = f"{job.needs.title} failed"
                continue
            if job.needs and not self.is_ready(job):
                todo.setdefault(job.needs.name, job.needs)
            todo.setdefault(job.name, job)
        return sorted(todo.values(), key=lambda job: job.needs is not None)

    def is_open(self, job: Job) -> bool:
        """Returns whether the job has no result, or only a failure."""
        result = self.results.read(job)
        return result is None or bool(result.failure)

    def is_ready(self, job: Job) -> bool:
        """Returns whether the checkpoint of the job that this one needs exists."""
        if job.needs is None:
            return True
        folder = self.folder(job.needs)
        return job.needs.owns(folder) and (folder / CHECKPOINT).exists()


def choose(
    study: Study, run: RunDefinition, results: Results, failed: Mapping[str, str] | None = None
) -> Mapping[str, Any] | None:
    """Chooses the value with the best score on the extra seed, the first of equals.

    A failed trial, such as a diverged one, has no score. If ``failed`` names those of this call,
    trials that failed in earlier calls are repeated.

    Returns:
        The value by its key; {} without a choice; None while a trial remains or if all failed.
    """
    if run.choose is None:
        return {}
    scores: list[tuple[float, Mapping[str, Any]]] = []
    for job in trial_jobs(study, run):
        result = results.read(job)
        if result is None or (result.failure and failed is not None and job.name not in failed):
            return None
        if study.metric in result.figures:
            scores.append((result.figures[study.metric], job.chosen))
    return max(scores, key=lambda pair: pair[0])[1] if scores else None
