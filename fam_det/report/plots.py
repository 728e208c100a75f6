"""The pictures of a report, as PNG files."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from fam_det.report.filters import high_pass_plane, magnitude, read_filters
from fam_det.report.runs import SCORES, Run

# Okabe and Ito's colours, told apart by the colour-blind too.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
SHOWN_SIZE = 32  # frequencies a side, of a filter without a size of its own


def plot_learning_curves(groups: Sequence[Sequence[Run]], file: Path) -> bool:
    """The main score over iterations, a line a run, a colour an experiment; False without any."""
    groups = [runs for runs in groups if runs[0].score_key]
    if not groups:
        return False
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for runs, color in zip(groups, cycle(COLORS), strict=False):
        for number, run in enumerate(runs):
            label = f"{run.pair}, {run.method}" if number == 0 else None
            points = zip(*run.curve, strict=True)
            axes.plot(*points, marker="o", markersize=3, color=color, label=label)
    keys = dict.fromkeys(runs[0].score_key for runs in groups)
    axes.set(xlabel="iterations", ylabel=f"{', '.join(SCORES[key] for key in keys if key)}, %")
    axes.set_title("Learning curves, a line a seed")
    return save(figure, axes, file)


def plot_gammas(run: Run, file: Path) -> bool:
    """gamma1 (solid) and gamma2 (dashed) of every stage over iterations; False without any."""
    gammas = run.gammas()
    if not gammas:
        return False
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for (stage, points), color in zip(gammas.items(), cycle(COLORS), strict=False):
        iterations, for_global, for_local = zip(*points, strict=True)
        axes.plot(iterations, for_global, color=color, label=f"{stage}: global, local dashed")
        axes.plot(iterations, for_local, color=color, linestyle="--")
    axes.set(xlabel="iterations", ylabel="gamma")
    axes.set_title(f"gamma1 and gamma2: {run.pair}, {run.method}")
    return save(figure, axes, file)


def plot_filters(run: Run, file: Path) -> bool:
    """|K| of every stage averaged over channels, the high-pass filter's edge drawn; False if none.

    The edge is where its response is a half.
    """
    fam = run.config["MODEL"].get("DISTILLER", {}).get("FAM", {})
    modules = read_filters(run.weights, fam.get("FILTER", "dense"))
    planes = [magnitude(module, SHOWN_SIZE) for module in modules]
    names = list(run.gammas()) or [f"stage {number}" for number in range(len(planes))]
    shown = [pair for pair in zip(names, planes, strict=True) if pair[1].numel() > 1]  # not 1x1
    if not shown:
        return False
    figure, panels = plt.subplots(1, len(shown), figsize=(3.4 * len(shown), 3.4), squeeze=False)
    for axes, (name, plane) in zip(panels[0], shown, strict=True):
        picture = axes.imshow(plane.numpy(), extent=extent(plane.shape[0]), cmap="viridis")
        figure.colorbar(picture, ax=axes, shrink=0.75)
        draw_edge(axes, fam, plane.shape[0])
        axes.set(title=name, xlabel="frequency / Nyquist")
    figure.suptitle(f"|K| averaged over channels; {fam['HIGH_PASS']} high-pass edge in red")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return True


def draw_edge(axes: Axes, fam: dict[str, Any], size: int) -> None:
    """The line where the high-pass filter's response is a half, if it has one at this size."""
    fine = 16 * size  # the filter's edge, not that of the map's few frequencies
    plane = high_pass_plane(fam["HIGH_PASS"], fine, fam["CUTOFF"], fam["ORDER"])
    if plane.min() < 0.5:
        axes.contour(
            plane.numpy(), [0.5], colors="red", linewidths=1, origin="upper", extent=extent(fine)
        )


def extent(size: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a centred spectrum: each frequency in the middle of its cell.

    In units of Nyquist; the zero frequency is the cell ``size // 2``.
    """
    cell = 2.0 / size
    first = -(size // 2) * cell - cell / 2
    return (first, first + 2.0, first + 2.0, first)


def save(figure: Any, axes: Axes, file: Path) -> bool:
    """Grid, legend, file."""
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return True
