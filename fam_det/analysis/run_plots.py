"""Plots of runs: learning curves, and the gammas and filters of frequency attention modules."""

import io
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot, which looks for a display
from matplotlib.patches import Circle, Patch, Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor

from fam_det.analysis.checkpoint import extent, high_pass_edge, read_filters, read_weights
from fam_det.analysis.plots import STAGES, method_colour
from fam_det.analysis.rows import Row, title
from fam_det.analysis.runs import GAMMA_GLOBAL, GAMMA_LOCAL, SCORES, Run
from fam_det.training.filter_images import magnitude

LINES = ("-", "--", ":", "-.")
GAMMAS = {  # by branch
    "global": ("gamma1, of the global branch", GAMMA_GLOBAL),
    "local": ("gamma2, of the local branch", GAMMA_LOCAL),
}
EDGE: dict[str, Any] = {  # a pink that stands out from every shade of viridis
    "fill": False,
    "edgecolor": "#FF6DB6",
    "linewidth": 1.6,
}
MIN_SPAN = 0.1  # minimal half range of a plot around a mean; for |K| as a fraction of the mean
TICKS = [-1, -0.5, 0, 0.5, 1]
SMALL = (4.4, 3.6)  # inches of a plot that is readable on a phone
SMALL_DPI = 200


def plot_learning_curves(rows: Sequence[Row], file: Path) -> bool:
    """Draws the main score and the training metric of one test set; False before any score.

    Colours are methods, line styles their settings, lines seeds.
    """
    rows = [row for row in rows if row.scores]
    if not rows:
        return False
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    scores, training = figure.subplots(1, 2)
    used: list[str] = []  # colours of the rows so far
    for row in rows:
        colour = method_colour(row.method)
        style = {"color": colour, "linestyle": LINES[used.count(colour) % len(LINES)]}
        used.append(colour)
        for run in row.runs:
            points = zip(*run.series(run.main_score), strict=True)
            scores.plot(*points, marker="o", markersize=4, **style)
            training.plot(*zip(*training_metric(run), strict=True), alpha=0.8, **style)
        names = (row.method, row.experiment.student, row.settings)
        scores.plot([], [], marker="o", label=", ".join(filter(None, names)), **style)
    task = rows[0].runs[0].task
    name, _ = next(iter(SCORES[task].values()))
    scores.set(ylabel=name, title=f"{name}, test images")
    if task == "classification":
        training.set(ylabel=name, title=f"{name}, training batches")
    else:
        training.set(ylabel="loss", title="Training loss without the distillation loss")
    for axes in (scores, training):
        axes.set(xlabel="iterations")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.suptitle(f"Learning curves on {rows[0].test_set}, a line a seed")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(file, dpi=120)
    return True


def training_metric(run: Run) -> list[tuple[int, float]]:
    """Returns a classifier's top-1 on its batches, or a detector's loss without distillation.

    A classifier's losses have weights of the method and cannot be compared.
    """
    if run.task == "classification":
        return run.series("train/top1")
    distillation = dict(run.series("loss_distill"))
    return [(i, value - distillation.get(i, 0.0)) for i, value in run.series("total_loss")]


def plot_gammas(row: Row, file: Path) -> bool:
    """Draws gamma1 and gamma2 of every stage over iterations, a line per seed; False if none."""
    if not row.gammas:
        return False
    figure = Figure(figsize=(6.0 + 2.0 * len(row.branches), 4.2), layout="constrained")
    panels = figure.subplots(1, len(row.branches), sharey=True, squeeze=False)[0]
    for axes, branch in zip(panels, row.branches, strict=True):
        name, prefix = GAMMAS[branch]
        _draw_gammas(axes, row, prefix)
        axes.set(title=name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
    figure.suptitle(f"{title(row)}{seeds}", wrap=True)
    figure.savefig(file, dpi=120)
    return True


def plot_each_gamma(row: Row) -> Iterator[tuple[str, bytes]]:
    """Draws the gammas of the enabled branches; yields captions and PNGs."""
    for branch in row.branches if row.gammas else ():
        name, prefix = GAMMAS[branch]
        figure = Figure(figsize=SMALL, layout="constrained")
        axes = figure.subplots()
        _draw_gammas(axes, row, prefix)
        axes.set(ylabel=name.partition(",")[0])
        axes.legend(ncols=2)
        yield name, _to_png(figure)


def _to_png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=SMALL_DPI)
    return data.getvalue()


def _draw_gammas(axes: Any, row: Row, prefix: str) -> None:
    for stage, colour in zip(row.gammas, cycle(STAGES), strict=False):
        for number, run in enumerate(row.runs):
            points = run.series(f"{prefix}{stage}")
            dot = "o" if len(points) == 1 else None
            label = None if number else stage
            axes.plot(*zip(*points, strict=True), color=colour, alpha=0.9, label=label, marker=dot)
    axes.set(xlabel="iterations")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.get_major_formatter().set_useOffset(False)
    low, high = axes.get_ylim()
    middle = (low + high) / 2
    axes.set_ylim(min(low, middle - MIN_SPAN), max(high, middle + MIN_SPAN))
    axes.grid(alpha=0.3)


def plot_filters(row: Row, file: Path) -> bool:
    """Draws |K| of every stage of one run with the high-pass filter's edge; False if none."""
    planes = filter_planes(row)
    if not planes:
        return False
    figure = Figure(figsize=(3.3 * len(planes) + 0.4, 4.3), layout="constrained")
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, (name, plane) in zip(panels, planes.items(), strict=True):
        _draw_filter(figure, axes, row, plane)
        spread = describe_spread(plane).replace(", ", "\n")
        axes.set_title(f"{name}, {plane.shape[0]}x{plane.shape[1]}\n{spread}", fontsize=10)
    if name := edge_name(row):
        figure.legend(handles=[Patch(label=name, **EDGE)], loc="outside lower center")
    figure.suptitle(f"|K| averaged over channels: {title(row)}")
    figure.savefig(file, dpi=120)
    return True


def plot_each_filter(row: Row) -> Iterator[tuple[str, str, bytes]]:
    """Draws |K| of every stage; yields captions, descriptions of its spread, and PNGs."""
    for name, plane in filter_planes(row).items():
        figure = Figure(figsize=SMALL, layout="constrained")
        _draw_filter(figure, figure.subplots(), row, plane)
        caption = f"{name}, {plane.shape[0]} x {plane.shape[1]} frequencies"
        yield caption, describe_spread(plane), _to_png(figure)


def describe_spread(plane: Tensor) -> str:
    """Describes the range of |K|, such as ``0.997 to 1.003, within 0.3 % of the mean``."""
    low, high, mean = float(plane.min()), float(plane.max()), float(plane.mean())
    deviation = max(high - mean, mean - low) / mean if mean > 0 else 0.0
    return f"{low:.4g} to {high:.4g}, within {deviation:.1%} of the mean".replace("%", " %")


def filter_planes(row: Row) -> dict[str, Tensor]:
    """Returns |K| of the first run's modules by stage, without 1x1 stages."""
    run = row.counted[0]
    modules = read_filters(read_weights(run.folder), row.fam.get("FILTER", ""))
    planes = [magnitude(module) for module in modules]
    names = run.stages()
    if len(names) != len(planes):
        names = [f"stage {i}" for i in range(1, len(planes) + 1)]
    return {n: plane for n, plane in zip(names, planes, strict=True) if plane.numel() > 1}


def edge_name(row: Row) -> str:
    """Returns the legend of the high-pass filter's edge in the plots; "" without an edge."""
    fam = row.fam
    if high_pass_edge(fam) is None:
        return ""
    return f"edge of the {fam['HIGH_PASS']} high-pass filter, cut-off {fam['CUTOFF']:g} of Nyquist"


def _draw_filter(figure: Figure, axes: Any, row: Row, plane: Tensor) -> None:
    left, right, bottom, top = box = extent(*plane.shape)
    low, high, mean = float(plane.min()), float(plane.max()), float(plane.mean())
    # The colours span at least MIN_SPAN of the mean, or half a percent would fill the scale.
    low, high = min(low, (1 - MIN_SPAN) * mean), max(high, (1 + MIN_SPAN) * mean)
    image = axes.imshow(plane.numpy(), extent=box, cmap="viridis", vmin=low, vmax=high)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.9)
    bar.locator = MaxNLocator(3)
    bar.formatter = ScalarFormatter(useOffset=False)
    bar.update_ticks()
    axes.set(xlabel="horizontal frequency / Nyquist", ylabel="vertical", xticks=TICKS, yticks=TICKS)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    if edge := high_pass_edge(row.fam):
        shape, radius = edge
        square = Rectangle((-radius, -radius), 2 * radius, 2 * radius, **EDGE)
        axes.add_patch(square if shape == "box" else Circle((0.0, 0.0), radius, **EDGE))
