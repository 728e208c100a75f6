"""What came out of a demo's trainings: figures, a table and a sentence on what they mean."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tabulate import tabulate
from tqdm import tqdm

from fam_det.training.metrics import read_metrics, training_seconds
from tools.demo.picture import Curve
from tools.demo.pipeline import Demo, Stage, read_state
from tools.demo.progress import evaluations

STYLES: tuple[dict[str, Any], ...] = (  # teacher, student alone, student taught
    {"color": "#777777", "linestyle": "--"},
    {"color": "#e07000", "marker": "o", "markersize": 4},
    {"color": "#1f4fd0", "marker": "o", "markersize": 4},
)


class Outcome(NamedTuple):
    """A finished stage.

    Args:
        title: for people.
        parameters: of the model at inference.
        scores: the last value of each of the demo's scores, NaN where it is not defined.
        curve: (iterations, metric) of each evaluation.
        seconds: of training, without evaluations.
    """

    title: str
    parameters: int
    scores: list[float]
    curve: list[tuple[int, float]]
    seconds: float


class Metric(NamedTuple):
    """How the verdict speaks of a score.

    Args:
        name: of the score.
        unit: of a difference.
        noise: two seeds of one training may differ by so much.
        method: what taught the student.
    """

    name: str
    unit: str
    noise: float
    method: str


def read_outcomes(demo: Demo) -> list[Outcome]:
    """What the stages of a finished demo have left in their folders."""
    return [read_outcome(demo, stage) for stage in demo.stages]


def read_outcome(demo: Demo, stage: Stage) -> Outcome:
    """What a finished stage has left in its folder."""
    folder, max_iter = demo.folder(stage), demo.max_iter(stage)
    key = demo.scores[demo.metric]
    metrics = read_metrics(folder / "metrics.json")
    evaluated = evaluations(metrics, key)
    # Detectron2 counts from 0, except in the line of the evaluation after the last iteration.
    curve = [(min(int(line["iteration"]) + 1, max_iter), line[key]) for line in evaluated]
    return Outcome(
        stage.title,
        read_state(folder)["result"]["parameters"],
        [evaluated[-1].get(name, math.nan) for name in demo.scores.values()],
        curve,
        training_seconds(metrics),
    )


def learning_curves(outcomes: Sequence[Outcome]) -> list[Curve]:
    """One a stage, in its colour."""
    return [Curve(o.title, o.curve, style) for o, style in zip(outcomes, STYLES, strict=True)]


def format_table(demo: Demo, outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, a model a row."""
    columns = ["model", "parameters", *demo.scores, "training time"]
    rows = [
        [
            outcome.title,
            f"{outcome.parameters / 1e6:.2f} M",
            *("-" if math.isnan(score) else f"{score:.1f}" for score in outcome.scores),
            tqdm.format_interval(outcome.seconds),
        ]
        for outcome in outcomes
    ]
    alignment = ["left", *["right"] * (len(columns) - 1)]
    table: str = tabulate(rows, columns, tablefmt="pipe", colalign=alignment, disable_numparse=True)
    return table


def describe_gain(metric: Metric, outcomes: Sequence[Outcome]) -> str:
    """What the table says about the method, no better than it is."""
    teacher, alone, taught = (outcome.scores[0] for outcome in outcomes)
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


def write_table(demo: Demo, title: str, text: str, picture: str) -> str:
    """Write ``report.md`` beside ``report.png``; returns what to print.

    Args:
        demo: whose folder to write into.
        title: heading of the file.
        text: the table and what it means.
        picture: what ``report.png`` shows.
    """
    table, image = demo.output / "report.md", demo.output / "report.png"
    table.write_text(f"# {title}\n\n{text}\n\n![{picture}]({image.name})\n")
    return f"\n{text}\n\nTable:   {table}\nPicture: {image}"
