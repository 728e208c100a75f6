"""The learning curves of a report, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure  # not pyplot: that would look for a display

from fam_det.analysis.report.rows import Row
from fam_det.analysis.report.runs import SCORES, Run, columns
from fam_det.analysis.report.style import LINES, method_colour, save


def plot_learning_curves(rows: Sequence[Row], file: Path) -> bool:
    """The main score and what is seen in training, of one data set; False before any score.

    A colour a method, a line style a setting of it, a line a seed.
    """
    rows = [row for row in rows if row.scores]
    if not rows:
        return False
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    scores, training = figure.subplots(1, 2)
    lines = [LINES[i % len(LINES)] for i in count_methods(rows)]
    for row, line in zip(rows, lines, strict=True):
        look = {"color": method_colour(row.experiment.method), "linestyle": line}
        for run in row.runs:
            scores.plot(*columns(run.series(run.main_score)), marker="o", markersize=4, **look)
            training.plot(*columns(in_training(run)), alpha=0.8, **look)
        names = (row.experiment.method, row.experiment.student, row.settings)
        scores.plot([], [], marker="o", label=", ".join(filter(None, names)), **look)
    name, _ = next(iter(SCORES[rows[0].runs[0].task].values()))
    scores.set(xlabel="iterations", ylabel=name, title=f"{name}, test images")
    classifies = rows[0].runs[0].task == "classification"
    seen = f"{name}, training batches" if classifies else "Training loss but the distillation's"
    training.set(xlabel="iterations", ylabel=name if classifies else "loss", title=seen)
    for axes in (scores, training):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.suptitle(f"Learning curves on {rows[0].experiment.data_set}, a line a seed")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    save(figure, file)
    return True


def count_methods(rows: Sequence[Row]) -> list[int]:
    """How many rows of the same colour come before each."""
    colours = [method_colour(row.experiment.method) for row in rows]
    return [colours[:i].count(colour) for i, colour in enumerate(colours)]


def in_training(run: Run) -> list[tuple[int, float]]:
    """A classifier's top-1 on its batches; a detector's total loss less what distillation adds.

    A classifier's losses are weighted by method, so that they don't compare.
    """
    if run.task == "classification":
        return run.series("train/top1")
    added = dict(run.series("loss_fam"))
    return [(i, value - added.get(i, 0.0)) for i, value in run.series("total_loss")]
