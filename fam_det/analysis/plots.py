"""Colours of all plots, and a study's plots: every seed, over the training, against the speed."""

import zlib
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure  # not pyplot, which looks for a display

from fam_det.analysis.experiment import ALONE, HEADS
from fam_det.analysis.study import Study
from fam_det.analysis.summary import SummaryRow

# Okabe and Ito's colours, which colour-blind people can tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#777777"
STAGES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
MARKERS = "os^vDPX"  # seven, beside eight colours: no pair of both comes twice
METHODS = {
    **{ALONE: GREY, "FAM-KD": BLUE, "FAM + ReviewKD": VERMILION, "ReviewKD": GREEN},
    **{"teacher": BLACK, HEADS: ORANGE, "layer-to-layer FAM": SKY},
    **{"KD": ORANGE, "DKD": PURPLE, "CRD": BLACK},
}
OTHERS = (PURPLE, BLACK, ORANGE, SKY)


def method_colour(method: str) -> str:
    """Returns the colour of a method, the same in every report; a variant has its method's."""
    for name in (method, method.partition(",")[0]):
        if name in METHODS:
            return METHODS[name]
    return OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


def plot_scores(study: Study, rows: Sequence[SummaryRow], file: Path) -> None:
    """Draws a line per run, the best at the top: seeds, mean and standard deviation."""
    rows = sorted((row for row in rows if row.mean is not None), key=lambda row: row.mean or 0.0)
    figure = Figure(figsize=(8.0, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        colour = method_colour(row.name)
        axes.errorbar(
            row.mean or 0.0, y, xerr=row.std or 0.0, fmt="|", color=colour, capsize=3, markersize=12
        )
        axes.plot(list(row.scores.values()), [y] * len(row.scores), "o", color=colour, alpha=0.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_xlabel(f"{study.metric}: seeds, mean and standard deviation")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=120)


def plot_curves(study: Study, rows: Sequence[SummaryRow], file: Path) -> bool:
    """Draws the mean over seeds at every evaluation; False if no run evaluated more than once."""
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
    figure.savefig(file, dpi=120)
    return True


def plot_speed(study: Study, rows: Sequence[SummaryRow], file: Path) -> None:
    """Draws a line per method against the milliseconds of its sizes, and the teacher.

    Args:
        study: with ``milliseconds``.
        rows: of its table; those without a size or a score are left out.
        file: to write.
    """
    methods: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        method, _, size = row.name.rpartition(", ")
        if size in study.milliseconds and row.mean is not None:
            point = (study.milliseconds[size], row.mean, row.std or 0.0)
            methods.setdefault(method, []).append(point)
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.subplots()
    styles = zip(cycle([*STAGES, GREY]), cycle(MARKERS), methods.items(), strict=False)
    for colour, marker, (method, points) in styles:
        times, means, deviations = zip(*sorted(points), strict=True)
        axes.errorbar(
            times, means, deviations, color=colour, marker=marker, capsize=3, label=method
        )
    ticks = [*study.milliseconds.values()]
    if study.teacher:
        ticks.append(study.teacher["milliseconds"])
        axes.axhline(study.teacher["score"], color=BLACK, linestyle=":", linewidth=1)
        axes.plot(
            ticks[-1], study.teacher["score"], "*", color=BLACK, markersize=12, label="teacher"
        )
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("milliseconds an image")
    axes.set_ylabel(f"{study.metric}, mean and standard deviation over seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)
