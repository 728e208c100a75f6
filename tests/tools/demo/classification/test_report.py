"""The table, the picture and the verdict."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from classification.config import get_cfg
from classification.data.datasets import digits
from tests.tools.demo.classification.fake_training import FakeTraining
from tools.demo import digits_report as report
from tools.demo.digits import DigitsDemo
from tools.demo.digits_picture import draw_picture
from tools.demo.digits_report import TOP1, find_misread, write_report
from tools.demo.outcome import Outcome, describe_gain
from tools.demo.picture import Curve
from tools.demo.pipeline import progress_costs, run_demo
from tools.demo.progress import Progress

# model, parameters, top-1, top-5, training time: 250 and 125 iterations of 0.5 s, 125 of 1 s
TABLE = [
    ["teacher", "0.27 M", "98.0", "99.0", "02:05"],
    ["student alone", "0.08 M", "70.0", "99.0", "01:02"],
    ["student with FAM-KD", "0.08 M", "86.0", "99.0", "02:05"],
]


@pytest.fixture
def finished(demo: DigitsDemo) -> DigitsDemo:
    with Path(os.devnull).open("w") as nowhere:
        run_demo(demo, Progress(progress_costs(demo), nowhere), FakeTraining())
    return demo


def test_report_of_a_finished_demo(finished: DigitsDemo) -> None:
    printed = write_report(finished)
    table, picture = finished.output / "report.md", finished.output / "report.png"
    for text in (printed, table.read_text()):
        rows = [line for line in text.splitlines() if line.startswith("|")][2:]
        assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == TABLE
    assert "gained 16.0 points of top-1, 57% of its distance to the teacher" in printed
    assert "One seed and a short schedule: an example, not a measurement." in printed
    assert str(table) in printed and str(picture) in printed
    image = cv2.imread(str(picture))
    assert image.shape[1] > 1000 and len(np.unique(image)) > 50


def test_pictured_digits_are_the_first_of_each_class_that_the_student_alone_misreads(
    finished: DigitsDemo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake ones say 7 to everything: the first test digit of each class but 7."""
    test = digits(get_cfg(), train=False)
    labels = test.labels.tolist()
    others = [labels.index(digit) for digit in range(10) if digit != 7]
    readings = find_misread(finished)
    assert [reading.truth for reading in readings] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert all(reading.answers == [7, 7, 7] for reading in readings)
    for reading, index in zip(readings, others, strict=True):
        digit = test.images[index].permute(1, 2, 0).numpy() / 255
        np.testing.assert_allclose(reading.image, digit / digit.max(), atol=1e-6)

    monkeypatch.setattr(report, "classify", lambda network, images: test.labels[: len(images)])
    assert find_misread(finished) == []


def test_picture_without_a_misread_digit(tmp_path: Path) -> None:
    curve = Curve("student", [(25, 50.0), (50, 99.0)], {"color": "black"})
    draw_picture(tmp_path / "curves.png", [curve], [], ["student"])
    assert cv2.imread(str(tmp_path / "curves.png")).shape[1] > 1000


def outcome(top1: float, seconds: float = 1.0) -> Outcome:
    return Outcome("x", 1, [top1, 99.0], [(100, top1)], seconds)


@pytest.mark.parametrize(
    ("alone", "taught", "words"),
    [
        (70, 86, "With FAM-KD the same student gained 16.0 points of top-1, 57% of"),
        (70, 76, "top-1 accuracy changed by +6.0, no more than seeds differ"),
        (70, 60, "FAM-KD did not help on this seed: the student lost 10.0 points of top-1."),
    ],
)
def test_verdict_is_honest(alone: float, taught: float, words: str) -> None:
    assert words in describe_gain(TOP1, [outcome(98), outcome(alone), outcome(taught)])
