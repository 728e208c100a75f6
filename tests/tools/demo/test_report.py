"""The table, the picture and the verdict."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fam_det.training.metrics import training_seconds
from tests.tools.demo.fake_training import FakeTraining
from tools.demo import pipeline
from tools.demo.detection import DetectionDemo as Demo
from tools.demo.outcome import Outcome, describe_gain
from tools.demo.picture import Objects, match, spread
from tools.demo.pipeline import run_demo
from tools.demo.progress import Progress
from tools.demo.report import AP, write_report

# model, parameters, AP, AP50, AP75, small, medium, large, training time
TABLE = [
    ["teacher", "0.00 M", "60.0", "60.0", "60.0", "60.0", "60.0", "-", "00:50"],
    ["student alone", "0.00 M", "30.0", "30.0", "30.0", "30.0", "30.0", "-", "00:50"],
    ["student with FAM", "0.00 M", "36.0", "36.0", "36.0", "36.0", "36.0", "-", "00:50"],
]


def test_report_of_a_finished_demo(demo: Demo) -> None:
    demo.opts = ["SOLVER.MAX_ITER", "100"]
    with Path(os.devnull).open("w") as nowhere:
        run_demo(demo, Progress(pipeline.progress_costs(demo), nowhere), FakeTraining())
    printed = write_report(demo)
    table, picture = demo.output / "report.md", demo.output / "report.png"
    for text in (printed, table.read_text()):
        rows = [line for line in text.splitlines() if line.startswith("|")][2:]
        assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == TABLE
    assert "gained 6.0 AP, 20% of its distance to the teacher" in printed
    assert str(table) in printed and str(picture) in printed
    image = cv2.imread(str(picture))
    assert image.shape[1] > 1000 and len(np.unique(image)) > 50


def outcome(ap: float) -> Outcome:
    return Outcome("x", 1, [ap, *[math.nan] * 5], [(100, ap)], 1.0)


@pytest.mark.parametrize(
    ("teacher", "alone", "fam", "words"),
    [
        (60, 30, 36, "gained 6.0 AP, 20% of its distance to the teacher."),
        (60, 30, 65, "gained 35.0 AP. One"),
        (60, 30, 30.9, "changed by +0.9, no more than seeds differ"),
        (60, 30, 29.1, "changed by -0.9, no more than seeds differ"),
        (60, 30, 28, "FAM did not help on this seed: the student lost 2.0 AP."),
        (25, 30, 32, "gained 2.0 AP. The teacher was no better"),
    ],
)
def test_verdict_is_honest(teacher: float, alone: float, fam: float, words: str) -> None:
    assert words in describe_gain(AP, [outcome(teacher), outcome(alone), outcome(fam)])


def test_training_seconds_by_hand() -> None:
    # 20 iterations of 0.5 s, 20 of 1 s, and an evaluation, which has no time of its own
    lines = [{"iteration": 19, "time": 0.5}, {"iteration": 39, "time": 1.0}, {"iteration": 40}]
    assert training_seconds(lines) == pytest.approx(30)


def test_match_of_detections() -> None:
    truth = Objects([(0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)], [1, 2, 1])
    found = Objects(
        [(1, 0, 10, 10), (0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 4), (40, 0, 10, 9)],
        [1, 1, 3, 1, 1],
    )
    # right; a repeat; a wrong digit; 0.4 of overlap; right
    assert match(found, truth) == [0, None, None, None, 2]
    assert match(Objects([], []), truth) == []


def test_texts_beside_close_points_are_moved_apart() -> None:
    # 7 percent of the highest, 100: at least 7 apart
    assert spread([100, 20, 22]) == [100, 20, 27]
    assert spread([97, 100, 94]) == [101, 108, 94]
