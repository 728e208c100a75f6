"""The results of a study: a file of JSON lines, one per job, which is versioned with the code."""

import fcntl
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fam_det.analysis.jobs import Job
from fam_det.analysis.runs import read_run
from fam_det.files.metrics_file import end_last_line

PACKAGES = ("torch", "torchvision", "detectron2", "numpy")
FIGURES = ("bbox/", "segm/", "keypoints/", "accuracy/", "distiller/gamma")


@dataclass(frozen=True)
class Result:
    """The outcome of a job."""

    definition: str  # of the job
    figures: Mapping[str, float]  # last value of each score, by its key in metrics.json
    curve: list[tuple[int, float]]  # (iterations done, value) of the study's metric
    seconds: float  # of training, without evaluations
    failure: str = ""  # reason why there are no figures


class Results:
    """A folder with ``runs.jsonl``, one line per result; a job's last line counts.

    Results of earlier versions, one ``JOB.json`` each, are read as well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "runs.jsonl"
        self._results: dict[str, dict[str, Result]] = {}  # by job name, then by definition
        self._state: tuple[int, int] | None = None  # time and size of the file when it was read

    def read(self, job: Job) -> Result | None:
        """Returns the job's result; None if there is none of the same definition.

        Raises:
            ValueError: a line or file is not a result.
        """
        return self._by_definition(job).get(job.definition)

    def is_stale(self, job: Job) -> bool:
        """Returns whether there are only results of other definitions."""
        results = self._by_definition(job)
        return bool(results) and job.definition not in results

    def write(self, job: Job, result: Result) -> None:
        """Appends a result."""
        node = {
            "job": job.name,
            "run": job.run.name,
            "seed": job.seed,
            "trial": job.trial,
            "config": job.run.config,
            "overrides": {**job.run.overrides, **job.chosen},
            **vars(result),
            "versions": {package: _version(package) for package in PACKAGES},
            "commit": _commit(),
        }
        append_line(self.file, json.dumps(node, default=str))

    def _by_definition(self, job: Job) -> dict[str, Result]:
        if self.file.exists():
            self._read_lines()
        old_file = self.folder / f"{job.name}.json"
        if job.name not in self._results and old_file.exists():
            self._add(parse(old_file.read_text(encoding="utf-8")), str(old_file), job.name)
        return self._results.get(job.name, {})

    def _read_lines(self) -> None:
        stat = self.file.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        if state == self._state:  # another process may have changed it
            return
        self._results = {}
        lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            if node := parse(line):  # a killed process may have left an incomplete line
                self._add(node, f"{self.file}: line {number}")
        self._state = state

    def _add(self, node: Any, where: str, job: str = "") -> None:
        try:
            fields = ("definition", "figures", "curve", "seconds", "failure")
            result = Result(**{name: node[name] for name in fields})
            self._results.setdefault(job or node["job"], {})[result.definition] = result
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where}: is no result of a study ({error}); delete it") from error


def parse(text: str) -> Any:
    """Parses JSON; returns None for an incomplete text."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def append_line(file: Path, line: str) -> None:
    """Appends a line under a lock, after ending an incomplete last line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        end_last_line(file)
        stream.write(f"{line}\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_output(job: Job, folder: Path, metric: str) -> Result:
    """Reads the result of a finished job from its output folder.

    Raises:
        ValueError: the metric is missing at the end of the training.
    """
    run = read_run(folder)
    curve = list(dict(run.series(metric)).items())  # a resumed run evaluates its end twice
    keys = {key for line in run.metrics for key in line if key.startswith((metric, *FIGURES))}
    figures = {key: series[-1][1] for key in sorted(keys) if (series := run.series(key))}
    if not run.finished or not curve or curve[-1][0] < run.iterations:
        raise ValueError(
            f"no {metric} after the last iteration, {run.max_iter}; the study's metric is one of "
            f"{sorted(figures) or 'nothing that was logged'}"
        )
    return Result(job.definition, figures, curve, round(run.seconds, 1))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed by a package manager"


def _commit() -> str:
    """Returns the commit of the working folder, "" without git."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
