"""A study's table: mean, spread, and the difference to the baseline, paired by seed."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scipy import special  # type: ignore[import-untyped]
from tabulate import tabulate

from fam_det.analysis.study.definition import RunDefinition, Study
from fam_det.analysis.study.jobs import reported, trials
from fam_det.analysis.study.plan import choose
from fam_det.analysis.study.results import Results


@dataclass(frozen=True)
class Difference:
    """Mean difference to another row over the seeds that both have, with its 95 % interval."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def format(self) -> str:
        """Such as ``+7.5 (+4.5 to +10.5)``."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True)
class SummaryRow:
    """A row of the table.

    Attributes:
        name: of the run.
        chosen: the value that was chosen, as text.
        scores: the study's metric by seed.
        mean, std: of the scores; None without them.
        others: means of the other figures.
        to_baseline, to_peer: differences; None where there is no seed in common.
        minutes: of training, a run.
        missing: seeds without a result.
        failures: why runs failed.
        curves: the metric over the iterations, by seed.
    """

    name: str
    chosen: str
    scores: Mapping[int, float]
    mean: float | None
    std: float | None
    others: Mapping[str, float]
    to_baseline: Difference | None
    to_peer: Difference | None
    minutes: float | None
    missing: Sequence[int]
    failures: Sequence[str] = ()
    curves: Mapping[int, list[tuple[int, float]]] = field(default_factory=dict)


def summarise(study: Study, results: Results) -> list[SummaryRow]:
    """The rows of the table, in the order of the file."""
    scores = {name: _scores(study, run, results) for name, run in study.runs.items()}
    return [_row(study, run, results, scores) for run in study.runs.values()]


def _scores(study: Study, run: RunDefinition, results: Results) -> dict[int, float]:
    chosen = choose(study, run, results)
    found = {}
    for job in reported(study, run, chosen) if chosen is not None else []:
        result = results.read(job)
        if result is not None and study.metric in result.figures:
            found[job.seed] = result.figures[study.metric]
    return found


def _row(
    study: Study,
    run: RunDefinition,
    results: Results,
    scores: Mapping[str, Mapping[int, float]],
) -> SummaryRow:
    own = scores[run.name]
    chosen = choose(study, run, results) or {}
    jobs = [*trials(study, run), *reported(study, run, chosen)]
    of_seeds = [(job.seed, results.read(job)) for job in jobs if not job.trial] if own else []
    done = {seed: r for seed, r in of_seeds if r is not None and not r.failure}
    keys = {key for r in done.values() for key in r.figures} - {study.metric}
    failed = [(job, r) for job in jobs if (r := results.read(job)) is not None and r.failure]
    return SummaryRow(
        run.name,
        ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items()),
        own,
        statistics.mean(own.values()) if own else None,
        statistics.stdev(own.values()) if len(own) > 1 else None,
        {
            key: statistics.mean(r.figures[key] for r in done.values())
            for key in sorted(keys)
            if all(key in r.figures for r in done.values())
        },
        difference(own, scores[study.baseline]) if run.name != study.baseline else None,
        difference(own, scores[study.peer]) if study.peer not in (None, run.name) else None,
        statistics.mean(r.seconds for r in done.values()) / 60 if done else None,
        [seed for seed in run.seeds if seed not in own],
        [f"{job.title}: {result.failure}" for job, result in failed],
        {seed: r.curve for seed, r in done.items()},
    )


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """The mean of own minus other over common seeds, with its 95 % t-interval from two on."""
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
    """The report: the table, the choices, and what failed."""
    parts = [study.about] if study.about else []
    header = ["", "n", study.metric, "std", f"difference to {study.baseline}"]
    header += [f"difference to {study.peer}"] if study.peer else []
    body = [_cells(study, row) for row in rows]
    parts.append(tabulate(body, [*header, "chosen", "minutes"], "pipe", disable_numparse=True))
    parts.append("Differences are paired by seed, with 95 % t-intervals.")
    choices = [
        cells for run in study.runs.values() if (cells := _choice_cells(study, run, results))
    ]
    if choices:
        heading = ["", "seed", "key", f"{study.metric} by value"]
        parts.append("Chosen on a seed that is not reported:")
        parts.append(tabulate(choices, heading, "pipe", disable_numparse=True))
    failures = [f"- {text}" for row in rows for text in row.failures]
    if failures:
        parts.append("\n".join(["Failed:", "", *failures]))
    return "\n\n".join(parts) + "\n"


def _cells(study: Study, row: SummaryRow) -> list[str]:
    def text(value: Any, form: str = "") -> str:
        return "" if value is None else format(value, form)

    count = f"{len(row.scores)}" + (f" of {len(row.scores) + len(row.missing)}" * bool(row.missing))
    cells = [row.name, count, text(row.mean, ".1f"), text(row.std, ".1f")]
    cells.append("" if row.to_baseline is None else row.to_baseline.format())
    if study.peer:
        cells.append("" if row.to_peer is None else row.to_peer.format())
    return [*cells, row.chosen, text(row.minutes, ".1f")]


def _choice_cells(study: Study, run: RunDefinition, results: Results) -> list[str]:
    figures = []
    for job in trials(study, run):
        result = results.read(job)
        value = result.figures.get(study.metric) if result else None
        shown = "-" if result is None else "failed" if value is None else f"{value:.1f}"
        figures.append(f"{next(iter(job.chosen.values()))}: {shown}")
    if run.choose is None or all(figure.endswith(": -") for figure in figures):
        return []
    return [run.name, str(run.choose.seed), run.choose.key, ", ".join(figures)]


def format_csv(study: Study, rows: Sequence[SummaryRow]) -> str:
    """The table in plain numbers; a column of scores a seed."""
    seeds = sorted({seed for run in study.runs.values() for seed in run.seeds})
    text = io.StringIO()
    header = ["run", "chosen", "n", "mean", "std", "minutes"]
    header += [
        f"{name}_{part}" for name in ("baseline", "peer") for part in ("mean", "low", "high")
    ]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *[f"seed {seed}" for seed in seeds]])
    for row in rows:
        cells: list[Any] = [row.name, row.chosen, len(row.scores), row.mean, row.std, row.minutes]
        for to in (row.to_baseline, row.to_peer):
            cells += [to.mean, to.low, to.high] if to else [None] * 3
        writer.writerow([*cells, *[row.scores.get(seed) for seed in seeds]])
    return text.getvalue()


def format_json(rows: Sequence[SummaryRow]) -> str:
    """Everything."""
    return json.dumps([asdict(row) for row in rows], indent=1) + "\n"
