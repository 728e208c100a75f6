"""Plots of the frequency attention modules of a run: gammas over time, and filters."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot: that would look for a display
from matplotlib.patches import Circle, Patch, Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from torch import Tensor

from fam_det.analysis.report.checkpoint import read_weights
from fam_det.analysis.report.filters import extent, high_pass_edge, read_filters
from fam_det.analysis.report.rows import Row, title
from fam_det.analysis.report.runs import GAMMA_GLOBAL, GAMMA_LOCAL, columns
from fam_det.analysis.report.style import STAGES, save
from fam_det.training.filter_images import magnitude

GAMMAS = {
    "gamma1, of the global branch": GAMMA_GLOBAL,
    "gamma2, of the local branch": GAMMA_LOCAL,
}
EDGE: dict[str, Any] = {  # a pink that stands out from every shade of viridis
    "fill": False,
    "edgecolor": "#FF6DB6",
    "linewidth": 1.6,
}
FLAT = 1e-3  # of a filter: a smaller spread of |K|, relative to it, is shown as none
TICKS = [-1, -0.5, 0, 0.5, 1]
ALONE_SIZE = (4.4, 3.6)  # inches of a plot that stands alone: letters are legible on a phone


def plot_gammas(row: Row, file: Path) -> bool:
    """gamma1 and gamma2 of every stage over iterations, a line a seed; False without any."""
    if not row.gammas:
        return False
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, prefix) in zip(panels, GAMMAS.items(), strict=True):
        _draw_gammas(axes, row, prefix)
        axes.set(title=name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    seeds = f", {len(row.runs)} seeds" if len(row.runs) > 1 else ""
    figure.suptitle(f"{title(row)}{seeds}")
    save(figure, file)
    return True


def plot_each_gamma(row: Row, folder: Path) -> Iterator[tuple[str, Path]]:
    """The same as a plot each: what it shows, and its file."""
    for number, (name, prefix) in enumerate(GAMMAS.items() if row.gammas else (), start=1):
        figure = Figure(figsize=ALONE_SIZE, layout="constrained")
        axes = figure.subplots()
        _draw_gammas(axes, row, prefix)
        axes.set(ylabel=f"gamma{number}")
        axes.legend(ncols=2)
        save(figure, file := folder / f"gamma{number}.png", sharp=True)
        yield name, file


def _draw_gammas(axes: Any, row: Row, prefix: str) -> None:
    for stage, colour in zip(row.gammas, cycle(STAGES), strict=False):
        for number, run in enumerate(row.runs):
            label = None if number else stage
            points = columns(run.series(f"{prefix}{stage}"))
            dot = "o" if len(points[0]) == 1 else None
            axes.plot(*points, color=colour, alpha=0.9, label=label, marker=dot)
    axes.set(xlabel="iterations")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.get_major_formatter().set_useOffset(False)
    axes.grid(alpha=0.3)


def plot_filters(row: Row, file: Path) -> bool:
    """|K| of every stage of one run with the high-pass filter's edge; False without any filter."""
    planes = filter_planes(row)
    if not planes:
        return False
    figure = Figure(figsize=(3.3 * len(planes) + 0.4, 4.0), layout="constrained")
    panels = figure.subplots(1, len(planes), squeeze=False)[0]
    for axes, (name, plane) in zip(panels, planes.items(), strict=True):
        _draw_filter(figure, axes, row, plane)
        axes.set(title=f"{name}, {plane.shape[0]}x{plane.shape[1]}")
    if name := edge_name(row):
        figure.legend(handles=[Patch(label=name, **EDGE)], loc="outside lower center")
    figure.suptitle(f"|K| averaged over channels: {title(row)}")
    save(figure, file)
    return True


def plot_each_filter(row: Row, folder: Path) -> Iterator[tuple[str, Path]]:
    """The same as a plot each: what it shows, and its file."""
    for name, plane in filter_planes(row).items():
        figure = Figure(figsize=ALONE_SIZE, layout="constrained")
        _draw_filter(figure, figure.subplots(), row, plane)
        save(figure, file := folder / f"filter_{name.replace(' ', '_')}.png", sharp=True)
        yield f"{name}, {plane.shape[0]} x {plane.shape[1]} frequencies", file


def filter_planes(row: Row) -> dict[str, Tensor]:
    """|K| of the first run's modules by stage; a 1x1 stage has no frequency but zero: not shown."""
    run = row.counted[0]
    modules = read_filters(read_weights(run), _fam(row).get("FILTER", ""))
    planes = [magnitude(module) for module in modules]
    names = run.stages()
    if len(names) != len(planes):
        names = [f"stage {i}" for i in range(1, len(planes) + 1)]
    return {n: plane for n, plane in zip(names, planes, strict=True) if plane.numel() > 1}


def edge_name(row: Row) -> str:
    """What the line in the plots of filters is; empty where there is none."""
    fam = _fam(row)
    if high_pass_edge(fam) is None:
        return ""
    return f"edge of the {fam['HIGH_PASS']} high-pass filter, cut-off {fam['CUTOFF']:g} of Nyquist"


def _fam(row: Row) -> dict[str, Any]:
    node: dict[str, Any] = row.counted[0].config["MODEL"].get("DISTILLER", {}).get("FAM", {})
    return node


def _draw_filter(figure: Figure, axes: Any, row: Row, plane: Tensor) -> None:
    """A plane of |K|, and where the high-pass filter's response is a half."""
    left, right, bottom, top = box = extent(*plane.shape)
    low, high = float(plane.min()), float(plane.max())
    if high - low < FLAT * high:  # what little there is would fill all colours
        low, high = 0.0, 2 * high
    picture = axes.imshow(plane.numpy(), extent=box, cmap="viridis", vmin=low, vmax=high)
    bar = figure.colorbar(picture, ax=axes, orientation="horizontal", shrink=0.9)
    bar.locator = MaxNLocator(3)
    bar.formatter = ScalarFormatter(useOffset=False)
    bar.update_ticks()
    axes.set(xlabel="horizontal frequency / Nyquist", ylabel="vertical", xticks=TICKS, yticks=TICKS)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    if edge := high_pass_edge(_fam(row)):
        shape, radius = edge
        square = Rectangle((-radius, -radius), 2 * radius, 2 * radius, **EDGE)
        axes.add_patch(square if shape == "box" else Circle((0.0, 0.0), radius, **EDGE))
