"""The plots of a report, as PNG files: learning curves, gammas over time, filters."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: that would look for a display
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from fam_det.report.checkpoint import read_weights
from fam_det.report.filters import extent, high_pass_edge, magnitude, read_filters
from fam_det.report.rows import Row
from fam_det.report.runs import GAMMA_GLOBAL, GAMMA_LOCAL, SCORES, Run
from fam_det.report.style import LINES, STAGES, method_colour, save

EDGE = "#FF6DB6"  # stands out from every shade of viridis
TICKS = [-1, -0.5, 0, 0.5, 1]


def title(row: Row) -> str:
    """Such as ``FAM-KD, resnet56 → resnet20, cifar100``."""
    experiment = row.experiment
    pair = " → ".join(name for name in (experiment.teacher, experiment.student) if name)
    return ", ".join(filter(None, (experiment.method, row.settings, pair, experiment.data_set)))


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


def columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Abscissas and ordinates."""
    return [x for x, _ in points], [y for _, y in points]


def plot_gammas(row: Row, file: Path) -> bool:
    """gamma1 and gamma2 of every stage over iterations, a line a seed; False without any."""
    if not row.gammas:
        return False
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = ("gamma1, of the global branch", "gamma2, of the local branch")
    for axes, name, prefix in zip(panels, names, (GAMMA_GLOBAL, GAMMA_LOCAL), strict=True):
        for stage, colour in zip(row.gammas, cycle(STAGES), strict=False):
            for run in row.runs:
                axes.plot(*columns(run.series(f"{prefix}{stage}")), color=colour, alpha=0.9)
        axes.set(xlabel="iterations", title=name)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    colours = zip(row.gammas, cycle(STAGES), strict=False)
    handles = [Line2D([], [], color=colour, label=stage) for stage, colour in colours]
    figure.legend(handles=handles, loc="outside right center")
    seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
    figure.suptitle(f"{title(row)}{seeds}")
    save(figure, file)
    return True


def plot_filters(row: Row, file: Path) -> bool:
    """|K| of every stage of one run with the high-pass filter's edge; False without any filter.

    A 1x1 stage has no frequency but zero and is not shown.
    """
    run = row.counted[0]
    fam = run.config["MODEL"].get("DISTILLER", {}).get("FAM", {})
    modules = read_filters(read_weights(run), fam.get("FILTER", ""))
    planes = [magnitude(module) for module in modules]
    names = run.stages()
    if len(names) != len(planes):
        names = [f"stage {i}" for i in range(1, len(planes) + 1)]
    shown = [(n, plane) for n, plane in zip(names, planes, strict=True) if plane.numel() > 1]
    if not shown:
        return False
    figure = Figure(figsize=(3.3 * len(shown) + 0.4, 4.0), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (name, plane) in zip(panels, shown, strict=True):
        left, right, bottom, top = box = extent(*plane.shape)
        picture = axes.imshow(plane.numpy(), extent=box, cmap="viridis", interpolation="nearest")
        bar = figure.colorbar(picture, ax=axes, orientation="horizontal", shrink=0.9)
        bar.locator = MaxNLocator(3)
        bar.update_ticks()
        axes.set(title=f"{name}, {plane.shape[0]}x{plane.shape[1]}", xticks=TICKS, yticks=TICKS)
        axes.set(xlabel="frequency / Nyquist", xlim=(left, right), ylim=(bottom, top))
    draw_edge(figure, panels, fam)
    figure.suptitle(f"|K| averaged over channels: {title(row)}")
    save(figure, file)
    return True


def draw_edge(figure: Figure, panels: Sequence[Any], fam: dict[str, Any]) -> None:
    """Where the high-pass filter's response is a half, and a legend that says so."""
    edge = high_pass_edge(fam)
    if edge is None:
        return
    shape, radius = edge
    look: dict[str, Any] = {"fill": False, "edgecolor": EDGE, "linewidth": 1.6}
    for axes in panels:
        patch: Patch
        if shape == "box":
            patch = Rectangle((-radius, -radius), 2 * radius, 2 * radius, **look)
        else:
            patch = Circle((0.0, 0.0), radius, **look)
        axes.add_patch(patch)
    name = f"edge of the {fam['HIGH_PASS']} high-pass filter, cut-off {fam['CUTOFF']:g} of Nyquist"
    figure.legend(handles=[Patch(label=name, **look)], loc="outside lower center")
