"""The tables of a report: scores over seeds, and gamma1 / gamma2 a stage."""

import csv
import io
import statistics
from collections.abc import Sequence

from tabulate import tabulate
from tqdm import tqdm

from fam_det.report.published import published_score
from fam_det.report.runs import SCORES, Run

FORMATS = {"text": "simple", "markdown": "pipe", "csv": ""}
NOTHING = "-"


def group_by_experiment(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, together; in the order of the first of each."""
    groups: list[list[Run]] = []
    for run in runs:
        known = next((group for group in groups if group[0].same_experiment(run)), None)
        if known is None:
            groups.append([run])
        else:
            known.append(run)
    return groups


def score_table(groups: Sequence[Sequence[Run]]) -> list[list[str]]:
    """A header, then an experiment a row."""
    header = ["models", "method", "data", "score", "runs", "mean ± std", "published"]
    header += ["student, M", "distiller, M", "training"]
    return [header, *(score_row(runs) for runs in groups)]


def score_row(runs: Sequence[Run]) -> list[str]:
    """An experiment: the score of its last evaluation, mean and sample standard deviation."""
    first = runs[0]
    scores = [run.score for run in runs if run.score is not None]
    published = published_score(first.data_set, first.pair, first.method)
    return [
        first.pair,
        first.method,
        first.data_set,
        SCORES[first.score_key] if first.score_key else NOTHING,
        str(len(scores)),
        mean_and_spread(scores),
        NOTHING if published is None else f"{published:.2f}",
        millions(first.count_parameters(distiller=False)),
        millions(first.count_parameters(distiller=True)),
        str(tqdm.format_interval(statistics.mean(run.seconds for run in runs))),
    ]


def gamma_table(groups: Sequence[Sequence[Run]]) -> list[list[str]]:
    """gamma1 / gamma2 at the end, mean over the seeds, a stage a column; empty without any FAM.

    In the form of the supplement's tables A.3 and A.4.
    """
    with_gammas = [runs for runs in groups if any(run.gammas() for run in runs)]
    stages = list(dict.fromkeys(stage for runs in with_gammas for stage in runs[0].gammas()))
    rows = []
    for runs in with_gammas:
        cells = [gamma_cell(runs, stage) for stage in stages]
        rows.append([runs[0].pair, runs[0].method, *cells])
    return [["models", "method", *stages], *rows] if rows else []


def gamma_cell(runs: Sequence[Run], stage: str) -> str:
    """gamma1 / gamma2 of a stage at the end, mean over the runs that have it."""
    last = [run.gammas()[stage][-1] for run in runs if stage in run.gammas()]
    if not last:
        return NOTHING
    for_global, for_local = (statistics.mean(entry[i] for entry in last) for i in (1, 2))
    return f"{for_global:.2f} / {for_local:.2f}"


def format_table(rows: Sequence[Sequence[str]], style: str) -> str:
    """A table in one of ``FORMATS``; the first row is its header."""
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()
    table: str = tabulate(rows[1:], rows[0], tablefmt=FORMATS[style], disable_numparse=True)
    return table + "\n"


def mean_and_spread(values: Sequence[float]) -> str:
    """Mean, and sample standard deviation of two or more."""
    if not values:
        return NOTHING
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def millions(count: int | None) -> str:
    """A count in millions."""
    return NOTHING if count is None else f"{count / 1e6:.2f}"
