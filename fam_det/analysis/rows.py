"""Rows of the report: means over runs that differ only in their seed."""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fam_det.analysis.checkpoint import Parameters, count_parameters, read_weights
from fam_det.analysis.experiment import (
    ALONE,
    Experiment,
    describe,
    group_seeds,
    name_test_set,
    settings,
    teacher_folders,
    unify_names,
)
from fam_det.analysis.published import PUBLISHED_SCORES, PublishedScore
from fam_det.analysis.runs import GAMMA_GLOBAL, GAMMA_LOCAL, SCORES, Run

TEACHER = "teacher"


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, and the sample standard deviation of two or more."""

    mean: float
    std: float | None

    def format(self, digits: int) -> str:
        """Returns text such as ``71.50 ± 2.12``."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {self.std:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """The scores of runs that differ only in their seed."""

    experiment: Experiment
    settings: str  # keys that differ from other rows of the same experiment, as text
    runs: Sequence[Run]  # finished or not
    counted: Sequence[Run]  # those in the means: the finished ones, or all if none is
    scores: dict[str, Estimate]  # last value of each, by its key in metrics.json
    best: Estimate | None  # highest main score, None if no run has evaluated twice
    gammas: dict[str, tuple[Estimate, Estimate]]  # gamma1, gamma2 at the end, shallow to deep
    parameters: Parameters | None  # None before the first checkpoint
    seconds: float  # mean of the trainings, without evaluations
    is_teacher: bool = False  # whether it is the teacher of another row
    teacher: "Row | None" = None  # None if the teacher is no row

    @property
    def method(self) -> str:
        """Returns the method; "teacher" for a teacher that was trained alone."""
        method = self.experiment.method
        if not self.is_teacher:
            return method
        return TEACHER if method == ALONE else f"{TEACHER}, {method}"

    @property
    def teacher_name(self) -> str | None:
        """Returns the teacher's network, or its name in the config; None without a teacher."""
        return self.teacher.experiment.student if self.teacher else self.experiment.teacher

    @property
    def test_set(self) -> str:
        """Returns the name of the test data."""
        return name_test_set(self.runs[0])

    @property
    def score(self) -> float | None:
        """Returns the main score, by which methods are compared."""
        estimate = self.scores.get(self.runs[0].main_score)
        return estimate.mean if estimate else None

    @property
    def iterations(self) -> int:
        """Returns the iterations that every counted run has done."""
        return min(run.iterations for run in self.counted)

    @property
    def fam(self) -> dict[str, Any]:
        """Returns the config of its frequency attention modules, empty without any."""
        return dict(self.counted[0].config["MODEL"].get("DISTILLER", {}).get("FAM", {}))

    @property
    def branches(self) -> Collection[str]:
        """Returns the enabled branches of the frequency attention modules."""
        return tuple(self.fam.get("BRANCHES", ("global", "local")))  # older runs lack the key

    @property
    def published(self) -> PublishedScore | None:
        """Returns the published figure of the experiment."""
        return PUBLISHED_SCORES.get(self.experiment)

    @property
    def same_schedule(self) -> bool:
        """Returns whether the published training saw as many images, within one percent."""
        if self.published is None:
            return False
        solver = self.runs[0].config["SOLVER"]
        images = solver["MAX_ITER"] * solver["IMS_PER_BATCH"]
        return bool(abs(images - self.published.images) <= 0.01 * self.published.images)


def title(row: Row) -> str:
    """Returns text such as ``FAM-KD, resnet56 → resnet20, cifar100``."""
    pair = " → ".join(name for name in (row.teacher_name, row.experiment.student) if name)
    return ", ".join(filter(None, (row.method, row.settings, pair, row.experiment.data_set)))


def build_rows(runs: Sequence[Run]) -> list[Row]:
    """Builds one row per group of seeds, in the order of the first run of each."""
    groups = group_seeds(unify_names(runs))
    rows = [_build_row(group, text) for group, text in zip(groups, settings(groups), strict=True)]
    teachers = []
    for row in rows:
        folders = teacher_folders(row.runs[0])
        taught_by = (x for x in rows if folders & {run.folder.resolve() for run in x.runs})
        teachers.append(next(taught_by, None))
    return [
        replace(row, teacher=teacher, is_teacher=any(row is other for other in teachers))
        for row, teacher in zip(rows, teachers, strict=True)
    ]


def compare(rows: Sequence[Row]) -> tuple[str, list[float | None]]:
    """Returns the kind of reference of rows of one test set, and the differences to it.

    The reference of a row is its teacher or, if that is no row, the only teacher. If there are no
    teachers among the rows, it is the only row of the same network trained alone.
    """
    teachers = [row for row in rows if row.is_teacher]
    differences = []
    for row in rows:
        student = row.experiment.student
        alone = [x for x in rows if (x.method, x.experiment.student) == (ALONE, student)]
        candidates = teachers or alone
        reference = candidates[0] if len(candidates) == 1 else None
        if row.teacher and row.teacher.test_set == row.test_set:
            reference = row.teacher
        score = None
        if reference is not None and reference is not row and not row.is_teacher:
            score = reference.score
        differences.append(None if row.score is None or score is None else row.score - score)
    return TEACHER if teachers else ALONE, differences


def _build_row(runs: Sequence[Run], text: str) -> Row:
    counted = [run for run in runs if run.finished] or list(runs)
    weights = next((state for run in counted if (state := read_weights(run.folder))), None)
    scores = {key: estimate_last(counted, key) for key in SCORES[runs[0].task]}
    curves = [[value for _, value in run.series(run.main_score)] for run in counted]
    gammas = {}
    for stage in counted[0].stages():
        first, second = (estimate_last(counted, f"{x}{stage}") for x in (GAMMA_GLOBAL, GAMMA_LOCAL))
        if first and second:
            gammas[stage] = (first, second)
    return Row(
        describe(runs[0]),
        text,
        runs,
        counted,
        {key: score for key, score in scores.items() if score},
        estimate([max(curve) for curve in curves if len(curve) > 1]),
        gammas,
        count_parameters(weights) if weights else None,
        statistics.mean(run.seconds for run in counted),
    )


def estimate(values: Sequence[float]) -> Estimate | None:
    """Returns the mean and sample standard deviation; None without values."""
    if not values:
        return None
    return Estimate(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def estimate_last(runs: Sequence[Run], key: str) -> Estimate | None:
    """Returns the mean of the last value of a key in each run that has one."""
    return estimate([series[-1][1] for run in runs if (series := run.series(key))])
