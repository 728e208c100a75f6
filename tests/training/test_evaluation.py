"""Evaluations of a training that is ended in one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.files.metrics_file import read_metrics
from fam_det.training.checkpointing import BoundedCheckpointer
from fam_det.training.evaluation import Evaluation
from fam_det.training.metrics import MetricsWriter
from fam_det.training.signals import StopOnSignal
from tests.training.small_training import trainer

from detectron2.utils.events import JSONWriter


class Run:
    """A training of 6 iterations with evaluations after 2, 4 and 6 that count themselves."""

    def __init__(self, folder: Path, ends_in: int | None = None) -> None:
        self.evaluated: list[int] = []
        self.ends_in = ends_in
        self.trainer = trainer(folder)
        self.checkpointer = SafeCheckpointer(self.trainer.model, str(folder), trainer=self.trainer)
        hooks: list[Any] = [
            BoundedCheckpointer(self.checkpointer, 2, keep=0),
            StopOnSignal(self.checkpointer),
            Evaluation(2, self.evaluate, str(folder)),
            MetricsWriter([JSONWriter(str(folder / "metrics.json"))], str(folder)),
        ]
        self.trainer.register_hooks(hooks)

    def evaluate(self) -> dict[str, float]:
        self.evaluated.append(self.trainer.iter)
        if self.trainer.iter == self.ends_in:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"weight": self.trainer.model.linear.weight.sum().item()}

    def go(self) -> None:
        self.checkpointer.resume_or_load("", resume=True)
        start = self.trainer.iter + 1 if self.checkpointer.has_checkpoint() else 0
        self.trainer.data_loader.start_iter = start
        self.trainer.train(start, 6)


def found(folder: Path) -> dict[float, float]:
    lines = read_metrics(folder / "metrics.json")
    return {line["iteration"]: line["weight"] for line in lines if "weight" in line}


def test_an_evaluation_that_was_broken_off_is_made_up_for(tmp_path: Path) -> None:
    Run(tmp_path / "unbroken").go()
    broken, again = Run(tmp_path / "broken", ends_in=3), Run(tmp_path / "broken")
    with pytest.raises(SystemExit):
        broken.go()
    again.go()
    assert (broken.evaluated, again.evaluated) == ([1, 3], [3, 6])
    assert found(tmp_path / "broken") == found(tmp_path / "unbroken")
    assert set(found(tmp_path / "broken")) == {1, 3, 6}


def test_an_evaluation_that_is_on_the_disk_is_not_done_again(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        if run.trainer.iter == 2:
            raise Stop

    run, again = Run(tmp_path), Run(tmp_path)
    run.trainer._hooks[0].before_step = stop
    with pytest.raises(Stop):
        run.go()
    again.go()
    assert (run.evaluated, again.evaluated) == ([1], [3, 6])
