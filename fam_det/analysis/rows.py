"""A row of the report: means over runs that differ in their seed alone."""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fam_det.analysis.checkpoint import Parameters, count_parameters, read_weights
from fam_det.analysis.experiment import Experiment, describe, group_seeds, settings
from fam_det.analysis.published import PUBLISHED_SCORES, PublishedScore
from fam_det.analysis.runs import GAMMA_GLOBAL, GAMMA_LOCAL, SCORES, Run


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
    """The scores of runs that differ in their seed alone."""

    experiment: Experiment
    settings: str  # keys that differ from other rows of the same experiment, as text
    runs: Sequence[Run]  # finished or not
    counted: Sequence[Run]  # those that the means are of: the finished ones, all if none is
    scores: dict[str, Estimate]  # last value of each, by its key in metrics.json
    best: Estimate | None  # highest main score, None if no run has evaluated twice
    gammas: dict[str, tuple[Estimate, Estimate]]  # gamma1, gamma2 at the end, shallow to deep
    parameters: Parameters | None  # None before the first checkpoint
    seconds: float  # mean of the trainings, without evaluations

    @property
    def iterations(self) -> int:
        """Returns the iterations that every counted run has done."""
        return min(run.iterations for run in self.counted)

    @property
    def branches(self) -> Collection[str]:
        """Returns the branches of the frequency attention modules that are on."""
        node = self.counted[0].config["MODEL"].get("DISTILLER", {}).get("FAM", {})
        return tuple(node.get("BRANCHES", ("global", "local")))  # a key that older runs lack

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
    experiment = row.experiment
    pair = " → ".join(name for name in (experiment.teacher, experiment.student) if name)
    return ", ".join(filter(None, (experiment.method, row.settings, pair, experiment.data_set)))


def build_rows(runs: Sequence[Run]) -> list[Row]:
    """Builds one row per group of seeds, in the order of the first run of each."""
    groups = group_seeds(runs)
    return [_build_row(group, text) for group, text in zip(groups, settings(groups), strict=True)]


def _build_row(runs: Sequence[Run], text: str) -> Row:
    counted = [run for run in runs if run.finished] or list(runs)
    weights = next((found for run in counted if (found := read_weights(run.folder))), None)
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
    """Returns the mean and sample standard deviation; None of no values."""
    if not values:
        return None
    return Estimate(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def estimate_last(runs: Sequence[Run], key: str) -> Estimate | None:
    """Returns the mean of the last value of a key in each run that has one."""
    return estimate([series[-1][1] for run in runs if (series := run.series(key))])
