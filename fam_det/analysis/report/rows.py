"""A row of the report: what the runs that differ in their seed alone come to."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fam_det.analysis.report.checkpoint import Parameters, count_parameters, read_weights
from fam_det.analysis.report.experiment import Experiment, describe, group_seeds, settings
from fam_det.analysis.report.published import FIGURES, Figure
from fam_det.analysis.report.runs import GAMMA_GLOBAL, GAMMA_LOCAL, SCORES, Run


@dataclass(frozen=True)
class Estimate:
    """Mean of some runs, and their sample standard deviation if there are two or more."""

    mean: float
    std: float | None

    def format(self, digits: int) -> str:
        """Such as ``71.50 ± 2.12``."""
        mean = f"{self.mean:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {self.std:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone.

    Attributes:
        experiment: what they do.
        settings: what tells them from other rows of the same experiment.
        runs: all of them.
        counted: those that the means are of: the finished ones, all of them if none is.
        scores: last value of each score by its key in ``metrics.json``.
        best: the highest value of the main score, None where a run has evaluated but once.
        gammas: (gamma1, gamma2) at the end by stage, shallow to deep.
        parameters: None before the first checkpoint.
        seconds: of training, without evaluations.
    """

    experiment: Experiment
    settings: str
    runs: Sequence[Run]
    counted: Sequence[Run]
    scores: dict[str, Estimate]
    best: Estimate | None
    gammas: dict[str, tuple[Estimate, Estimate]]
    parameters: Parameters | None
    seconds: Estimate

    @property
    def published(self) -> Figure | None:
        """The published figure of the experiment."""
        return FIGURES.get(self.experiment)

    @property
    def same_schedule(self) -> bool:
        """Whether the published figure is of as long a training (within a hundredth)."""
        if self.published is None:
            return False
        solver = self.runs[0].config["SOLVER"]
        images = solver["MAX_ITER"] * solver["IMS_PER_BATCH"]
        return bool(abs(images - self.published.images) <= 0.01 * self.published.images)


def title(row: Row) -> str:
    """Such as ``FAM-KD, resnet56 → resnet20, cifar100``."""
    experiment = row.experiment
    pair = " → ".join(name for name in (experiment.teacher, experiment.student) if name)
    return ", ".join(filter(None, (experiment.method, row.settings, pair, experiment.data_set)))


def build_rows(runs: Sequence[Run]) -> list[Row]:
    """A row an experiment, in the order of the first run of each."""
    groups = group_seeds(runs)
    return [build_row(group, text) for group, text in zip(groups, settings(groups), strict=True)]


def build_row(runs: Sequence[Run], text: str) -> Row:
    """The row of one group."""
    counted = [run for run in runs if run.finished] or list(runs)
    weights = next((found for run in counted if (found := read_weights(run))), None)
    scores = {
        key: last
        for key in SCORES[runs[0].task]
        if (last := estimate_last(counted, key)) is not None
    }
    values = [[value for _, value in run.series(run.main_score)] for run in counted]
    best = [max(curve) for curve in values if len(curve) > 1]
    gammas = {}
    for stage in counted[0].stages():
        pair = [
            estimate_last(counted, f"{prefix}{stage}") for prefix in (GAMMA_GLOBAL, GAMMA_LOCAL)
        ]
        if pair[0] is not None and pair[1] is not None:
            gammas[stage] = (pair[0], pair[1])
    return Row(
        describe(runs[0]),
        text,
        runs,
        counted,
        scores,
        estimate(best),
        gammas,
        count_parameters(weights) if weights else None,
        estimate_seconds(counted),
    )


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and sample standard deviation; None of no values."""
    if not values:
        return None
    return Estimate(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


def estimate_last(runs: Sequence[Run], key: str) -> Estimate | None:
    """Over the last value of a key in each run that has one."""
    return estimate([series[-1][1] for run in runs if (series := run.series(key))])


def estimate_seconds(runs: Sequence[Run]) -> Estimate:
    """Over the training times."""
    seconds = [run.seconds for run in runs]
    return Estimate(statistics.mean(seconds), statistics.stdev(seconds) if len(runs) > 1 else None)
