"""A study's plots: every seed with the mean and its spread, and the metric over the training."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from fam_det.analysis.report.style import method_colour, save
from fam_det.analysis.study.definition import Study
from fam_det.analysis.study.summary import SummaryRow


def plot_scores(study: Study, rows: Sequence[SummaryRow], file: Path) -> None:
    """A line a run, best on top: seeds as dots, the mean with one standard deviation as a bar."""
    shown = sorted((row for row in rows if row.mean is not None), key=lambda row: row.mean or 0.0)
    figure = Figure(figsize=(8.0, 0.4 * len(shown) + 1.2), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(shown):
        colour = method_colour(row.name)
        axes.errorbar(
            row.mean or 0.0, y, xerr=row.std or 0.0, fmt="|", color=colour, capsize=3, markersize=12
        )
        axes.plot(list(row.scores.values()), [y] * len(row.scores), "o", color=colour, alpha=0.5)
    axes.set_yticks(range(len(shown)), [row.name for row in shown])
    axes.set_xlabel(f"{study.metric}: seeds, mean and standard deviation")
    axes.grid(axis="x", alpha=0.3)
    save(figure, file)


def plot_curves(study: Study, rows: Sequence[SummaryRow], file: Path) -> bool:
    """The mean over seeds after every evaluation; False where no run evaluated more than once."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        curves = [dict(curve) for curve in row.curves.values()]
        shared = sorted(set.intersection(*map(set, curves))) if curves else []
        if len(shared) < 2:
            continue
        means = [mean(curve[iteration] for curve in curves) for iteration in shared]
        axes.plot(shared, means, label=row.name, color=method_colour(row.name))
    if not axes.lines:
        return False
    axes.set_xlabel("iterations")
    axes.set_ylabel(study.metric)
    axes.legend()
    save(figure, file)
    return True
