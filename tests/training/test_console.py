"""What of a training's log the console shows."""

import logging

import pytest

from fam_det.training.console import ConsoleFilter, ConsoleFormatter


def record(name: str, text: str, level: int = logging.INFO, at: float = 0.0) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "", 0, text, (), None)
    made.created = at
    return made


@pytest.mark.parametrize(
    ("name", "text", "level", "shown"),
    [
        ("detectron2.engine.defaults", "Model:\nFPN(", logging.INFO, False),
        ("detectron2.engine.defaults", "it is slow", logging.WARNING, True),
        ("fvcore.common.checkpoint", "gone", logging.ERROR, True),
        ("fam_det.training.best", "better", logging.INFO, True),
        ("d2.evaluation.testing", "copypaste: AP", logging.INFO, True),  # of another handler
        ("detectron2.data.build", "Distribution of instances" + "\n|" * 7, logging.INFO, True),
        ("detectron2.data.build", "Distribution of instances" + "\n|" * 30, logging.INFO, False),
    ],
)
def test_warnings_and_our_lines_are_shown_and_long_tables_are_not(
    name: str, text: str, level: int, shown: bool
) -> None:
    assert ConsoleFilter().filter(record(name, text, level)) is shown


def test_a_long_evaluation_shows_a_line_now_and_then() -> None:
    chosen, name = ConsoleFilter(), "detectron2.evaluation.evaluator"
    times = [
        second
        for second in range(0, 100, 5)
        if chosen.filter(record(name, "Inference done" if second else "Start inference", at=second))
    ]
    assert times == [0, 30, 60, 90]


def test_data_is_described_before_the_training_alone() -> None:
    chosen, line = ConsoleFilter(), record("detectron2.data.datasets.coco", "Loaded 3 images")
    assert chosen.filter(line)
    assert chosen.filter(record("detectron2.engine.train_loop", "Starting training"))
    assert not chosen.filter(line)


def test_the_unweighted_loss_stands_beside_the_weighted_one() -> None:
    line = (
        " eta: 0:01:24  iter: 19  distiller/loss_weight: 20  distiller/loss_p2: 3.5  "
        "total_loss: 73  loss_cls: 1.3  loss_distill: 71.7  distiller/loss_unweighted: 3.585  "
        "time: 1.0537  data_time: 0.0232  last_data_time: 0.0012  lr: 0.02  "
    )
    progress = record("detectron2.utils.events", line)
    assert ConsoleFormatter(None).format(progress) == (
        " eta: 0:01:24  iter: 19  total_loss: 73  loss_cls: 1.3  "
        "loss_distill: 71.7 (unweighted: 3.585)  time: 1.0537  lr: 0.02  "
    )
