"""The results of a study: one small JSON a job, which is kept with the code."""

import importlib.metadata
import json
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fam_det.analysis.report.runs import Run, read_run
from fam_det.analysis.study.jobs import Job
from fam_det.files.atomic_write import atomic_write_text

PACKAGES = ("torch", "torchvision", "detectron2", "numpy")


@dataclass(frozen=True)
class Result:
    """What a job came to.

    Attributes:
        definition: digest of the job that was done.
        figures: last value of each score, by its key in ``metrics.json``.
        curve: (iterations done, value) of the study's metric.
        seconds: of training, without evaluations.
        failure: why there are no figures, "" for none.
    """

    definition: str
    figures: Mapping[str, float]
    curve: list[tuple[int, float]]
    seconds: float
    failure: str = ""


class Results:
    """A folder of results.

    Args:
        folder: created when the first result is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, job: Job) -> Path:
        """The job's file."""
        return self.folder / f"{job.name}.json"

    def read(self, job: Job) -> Result | None:
        """The job's result; None if there is none, or only that of another definition.

        Raises:
            ValueError: a file that is not a result.
        """
        path = self.path(job)
        if not path.exists():
            return None
        try:
            node = json.loads(path.read_text())
            fields = ("definition", "figures", "curve", "seconds", "failure")
            result = Result(**{name: node[name] for name in fields})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: is no result of a study ({error}); delete it") from error
        return result if result.definition == job.definition else None

    def is_stale(self, job: Job) -> bool:
        """Whether there is a result, but of another definition."""
        return self.path(job).exists() and self.read(job) is None

    def write(self, job: Job, result: Result) -> None:
        """Write a result whole or not at all."""
        node = {
            "run": job.run.name,
            "seed": job.seed,
            "trial": job.trial,
            "config": job.run.config,
            "overrides": {**job.run.overrides, **job.chosen},
            **vars(result),
            "versions": _versions(),
            "commit": _commit(),
        }
        atomic_write_text(self.path(job), json.dumps(node, indent=1, default=str) + "\n")


def read_output(job: Job, folder: Path, metric: str) -> Result:
    """The result of a job that ended well.

    Raises:
        ValueError: an output folder without the metric at the end of the training.
    """
    run = read_run(folder)
    for line in run.metrics:
        # AP of a detector that finds nothing at all; without these runs the mean would be too high
        if math.isnan(line.get(metric, 0.0)):
            line[metric] = 0.0
    curve = list(dict(run.series(metric)).items())  # a resumed run evaluates its end twice
    if not run.finished or not curve or curve[-1][0] < run.max_iter:
        raise ValueError(
            f"no {metric} after the last iteration, {run.max_iter}; the study's metric is one of "
            f"{sorted(_scores(run)) or 'nothing that was logged'}"
        )
    return Result(job.definition, _scores(run), curve, round(run.seconds, 1))


def _scores(run: Run) -> dict[str, float]:
    """The last value of each evaluation's figure, and of the gammas."""
    keep = ("bbox/", "segm/", "keypoints/", "accuracy/", "distiller/gamma")
    keys = {key for line in run.metrics for key in line if key.startswith(keep)}
    values = {key: run.series(key) for key in sorted(keys)}
    return {key: series[-1][1] for key, series in values.items() if series}


def _versions() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed by a package manager"
    return versions


def _commit() -> str:
    """The commit of the working folder, "" without git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
