"""Reports on a demo's trainings: a table, learning curves, and a sentence on the gain."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate
from tqdm import tqdm

from fam_det.analysis.results import Result

STYLES: tuple[dict[str, Any], ...] = (  # teacher, student alone, student taught
    {"color": "#777777", "linestyle": "--"},
    {"color": "#e07000", "marker": "o", "markersize": 4},
    {"color": "#1f4fd0", "marker": "o", "markersize": 4},
)


class Outcome(NamedTuple):
    """A finished training."""

    title: str  # of the model
    folder: Path
    parameters: int  # of the model at inference
    result: Result


class Metric(NamedTuple):
    """The score by which models are compared."""

    key: str  # in ``metrics.json``
    name: str
    unit: str  # of a difference
    noise: float  # difference between two seeds of one training
    method: str  # of distillation


def format_table(columns: Mapping[str, str], outcomes: Sequence[Outcome]) -> str:
    """Returns a Markdown table, one row per model; ``columns`` are keys of scores by title."""
    header = ["model", "parameters", *columns, "training time"]
    rows = []
    for title, _, parameters, result in outcomes:
        scores = [result.figures.get(key, math.nan) for key in columns.values()]
        cells = ["-" if math.isnan(score) else f"{score:.1f}" for score in scores]
        time = tqdm.format_interval(result.seconds)
        rows.append([title, f"{parameters / 1e6:.2f} M", *cells, time])
    alignment = ["left", *["right"] * (len(header) - 1)]
    return str(tabulate(rows, header, "pipe", colalign=alignment, disable_numparse=True))


def describe_gain(metric: Metric, teacher: float, alone: float, taught: float) -> str:
    """Returns a sentence on the three scores, which claims no gain within the noise."""
    gain, gap, method = taught - alone, teacher - alone, metric.method
    if gain > metric.noise:
        verdict = f"With {method} the same student gained {gain:.1f} {metric.unit}"
        verdict += f", {gain / gap:.0%} of its distance to the teacher." if gap > gain else "."
    elif gain >= -metric.noise:
        verdict = f"With {method} the student's {metric.name} changed by {gain:+.1f}, no more than"
        verdict += f" seeds differ: here {method} made no difference that could be told."
    else:
        verdict = f"{method} did not help on this seed: the student lost {-gain:.1f} {metric.unit}."
    if gap <= 0:
        verdict += " The teacher was no better than the student alone, so it had little to teach."
    return f"{verdict} One seed and a short schedule: an example, not a measurement."


def draw_curves(axes: Any, outcomes: Sequence[Outcome], label: str) -> None:
    """Draws the metric over the training, with the last value at the end of each curve."""
    heights = spread([outcome.result.curve[-1][1] for outcome in outcomes])
    for outcome, style, height in zip(outcomes, STYLES, heights, strict=True):
        iterations, scores = zip(*outcome.result.curve, strict=True)
        axes.plot(iterations, scores, label=outcome.title, **style)
        position = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
        text, end, colour = f"{scores[-1]:.1f}", (iterations[-1], height), style["color"]
        axes.annotate(text, end, color=colour, weight="bold", **position)
    axes.set_xlabel("training iterations")
    axes.set_ylabel(label)
    axes.set_xlim(0, 1.06 * max(outcome.result.curve[-1][0] for outcome in outcomes))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")


def spread(heights: Sequence[float]) -> list[float]:
    """Returns heights of texts beside points, moved up if two would overlap."""
    distance = 0.07 * max(heights, default=0)
    moved = list(heights)
    by_height = sorted(range(len(moved)), key=moved.__getitem__)
    for lower, upper in pairwise(by_height):
        moved[upper] = max(moved[upper], moved[lower] + distance)
    return moved
