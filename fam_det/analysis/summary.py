"""The table of a study: mean, deviation, and the difference to the baseline, paired by seed."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import special  # type: ignore[import-untyped]
from tabulate import tabulate

from fam_det.analysis.jobs import reported_jobs, trial_jobs
from fam_det.analysis.plan import choose
from fam_det.analysis.results import Result, Results
from fam_det.analysis.study import RunDefinition, Study


@dataclass(frozen=True)
class Difference:
    """Mean difference to another row over the seeds that both have, with its 95 % interval."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def format(self) -> str:
        """Returns text such as ``+7.5 (+4.5 to +10.5)``."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class SummaryRow:
    """A row of the table."""

    name: str  # of the run
    chosen: str  # value, as text
    scores: Mapping[int, float]  # the study's metric by seed
    mean: float | None
    std: float | None
    others: Mapping[str, float]  # means of the other figures
    to_baseline: Difference | None  # None without a seed in common
    to_peer: Difference | None
    minutes: float | None  # of a training
    missing: Sequence[int]  # seeds without a result
    failures: Sequence[str]  # reasons of failed runs
    curves: Mapping[int, list[tuple[int, float]]]  # the metric over the iterations, by seed


def summarise(study: Study, results: Results) -> list[SummaryRow]:
    """Returns the rows of the table, in the order of the file."""
    chosen = {run.name: choose(study, run, results) for run in study.runs.values()}
    done: dict[str, dict[int, Result]] = {name: {} for name in study.runs}  # by seed
    scores: dict[str, dict[int, float]] = {name: {} for name in study.runs}
    for name, value in chosen.items():
        jobs = [] if value is None else reported_jobs(study, study.runs[name], value)
        for job in jobs:
            result = results.read(job)
            if result is not None and study.metric in result.figures:
                done[name][job.seed] = result
                scores[name][job.seed] = result.figures[study.metric]
    return [
        _row(study, run, results, chosen[run.name] or {}, done[run.name], scores)
        for run in study.runs.values()
    ]


def _row(
    study: Study,
    run: RunDefinition,
    results: Results,
    chosen: Mapping[str, Any],
    done: Mapping[int, Result],
    scores: Mapping[str, Mapping[int, float]],
) -> SummaryRow:
    own = scores[run.name]
    jobs = [*trial_jobs(study, run), *reported_jobs(study, run, chosen)]
    outcomes = [(job.title, results.read(job)) for job in jobs]
    figures = [result.figures for result in done.values()]
    keys = set(figures[0]).intersection(*figures) - {study.metric} if figures else set()
    return SummaryRow(
        run.name,
        ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items()),
        own,
        statistics.mean(own.values()) if own else None,
        statistics.stdev(own.values()) if len(own) > 1 else None,
        {key: statistics.mean(figure[key] for figure in figures) for key in sorted(keys)},
        difference(own, scores[study.baseline]) if run.name != study.baseline else None,
        difference(own, scores[study.peer]) if study.peer not in (None, run.name) else None,
        statistics.mean(result.seconds for result in done.values()) / 60 if done else None,
        [seed for seed in run.seeds if seed not in own],
        [f"{title}: {x.failure}" for title, x in outcomes if x is not None and x.failure],
        {seed: result.curve for seed, result in done.items()},
    )


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Returns the mean of own minus other over common seeds, for two or more with a t-interval."""
    pairs = [own[seed] - other[seed] for seed in own if seed in other]
    if not pairs:
        return None
    mean = statistics.mean(pairs)
    if len(pairs) < 2:
        return Difference(mean, None, None, len(pairs))
    quantile = float(special.stdtrit(len(pairs) - 1, 0.975))
    half = quantile * statistics.stdev(pairs) / math.sqrt(len(pairs))
    return Difference(mean, mean - half, mean + half, len(pairs))


def format_markdown(study: Study, rows: Sequence[SummaryRow], results: Results) -> str:
    """Returns the report: the table, the choices and the failures."""
    parts = [study.about] if study.about else []
    header = ["", "n", study.metric, "std", f"difference to {study.baseline}"]
    header += [f"difference to {study.peer}"] if study.peer else []
    body = [_cells(study, row) for row in rows]
    parts.append(tabulate(body, [*header, "chosen", "minutes"], "pipe", disable_numparse=True))
    parts.append("Differences are paired by seed, with 95 % t-intervals.")
    choices = [_choice_cells(study, run, results) for run in study.runs.values()]
    if choices := list(filter(None, choices)):
        header = ["", "seed", "key", f"{study.metric} by value"]
        parts.append("Chosen on a seed that is not reported:")
        parts.append(tabulate(choices, header, "pipe", disable_numparse=True))
    failures = [f"- {text}" for row in rows for text in row.failures]
    if failures:
        parts.append("\n".join(["Failed:", "", *failures]))
    return "\n\n".join(parts) + "\n"


def _cells(study: Study, row: SummaryRow) -> list[str]:
    mean, std, minutes = (
        "" if value is None else f"{value:.1f}" for value in (row.mean, row.std, row.minutes)
    )
    count = f"{len(row.scores)}"
    if row.missing:
        count += f" of {len(row.scores) + len(row.missing)}"
    cells = [row.name, count, mean, std, row.to_baseline.format() if row.to_baseline else ""]
    if study.peer:
        cells.append(row.to_peer.format() if row.to_peer else "")
    return [*cells, row.chosen, minutes]


def _choice_cells(study: Study, run: RunDefinition, results: Results) -> list[str]:
    """Returns the scores of a run's trials; empty if there are none yet."""
    outcomes = [results.read(job) for job in trial_jobs(study, run)]
    if run.choose is None or not any(outcomes):
        return []
    texts = []
    for value, result in zip(run.choose.values, outcomes, strict=True):
        score = result.figures.get(study.metric) if result else None
        text = "-" if result is None else "failed" if score is None else f"{score:.1f}"
        texts.append(f"{value}: {text}")
    return [run.name, str(run.choose.seed), run.choose.key, ", ".join(texts)]


def format_csv(study: Study, rows: Sequence[SummaryRow]) -> str:
    """Returns the table in plain numbers, with a column of scores per seed."""
    seeds = sorted({seed for run in study.runs.values() for seed in run.seeds})
    text = io.StringIO()
    header = ["run", "chosen", "n", "mean", "std", "minutes"]
    header += ["baseline_mean", "baseline_low", "baseline_high"]
    header += ["peer_mean", "peer_low", "peer_high"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *[f"seed {seed}" for seed in seeds]])
    for row in rows:
        cells: list[Any] = [row.name, row.chosen, len(row.scores), row.mean, row.std, row.minutes]
        for to in (row.to_baseline, row.to_peer):
            cells += [to.mean, to.low, to.high] if to else [None] * 3
        writer.writerow([*cells, *[row.scores.get(seed) for seed in seeds]])
    return text.getvalue()


def format_json(rows: Sequence[SummaryRow]) -> str:
    """Returns the rows with all their values as JSON."""
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n"
