"""Resuming with another length or rate: as if the run had been asked for that from the start."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.param_scheduler import MultiStepParamScheduler

from tests.training.small_training import SmallTrainer, small_run
from tests.training.test_best import assert_equal, contents

from detectron2.engine import HookBase

LONG = ("SOLVER.STEPS", (12,), "SOLVER.CHECKPOINT_PERIOD", 4, "SOLVER.MAX_ITER")
SCORES = {8: 5.0, 12: 4.0}


def test_a_run_made_longer_ends_as_one_of_that_length(tmp_path: Path) -> None:
    small_run(tmp_path / "unbroken", *LONG, 16, scores=SCORES).train()
    small_run(tmp_path / "longer", *LONG, 8, scores=SCORES).train()
    shutil.copy(tmp_path / "longer" / "model_final.pth", tmp_path / "old.pth")
    small_run(tmp_path / "longer", *LONG, 16, scores=SCORES).train()
    assert_equal(contents(tmp_path / "longer"), contents(tmp_path / "unbroken"))

    # killed before the final checkpoint, with the one of the shorter run still there
    shutil.copy(tmp_path / "old.pth", tmp_path / "longer" / "model_final.pth")
    (tmp_path / "longer" / "last_checkpoint").write_text("model_0000015.pth")
    metrics = tmp_path / "longer" / "metrics.json"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    small_run(tmp_path / "longer", *LONG, 16, scores=SCORES).train()
    assert_equal(contents(tmp_path / "longer"), contents(tmp_path / "unbroken"))


class Rates(HookBase):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def before_step(self) -> None:
        group = self.trainer.optimizer.param_groups[-1]
        self.seen.append((group["lr"], group["weight_decay"]))


def lazy_scheduler(cfg: Any, optimizer: Any) -> MultiStepParamScheduler:
    return MultiStepParamScheduler([1.0, 0.1], milestones=[6], num_updates=8)


@pytest.mark.parametrize("is_lazy", [False, True])
def test_rates_are_those_of_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lazy: bool
) -> None:
    if is_lazy:
        monkeypatch.setattr(SmallTrainer, "build_lr_scheduler", staticmethod(lazy_scheduler))
    small_run(tmp_path, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", (2,)).train()
    words = ["SOLVER.MAX_ITER", 8, "SOLVER.STEPS", (6,)]
    run = small_run(tmp_path, *words, "SOLVER.BASE_LR", 0.5, "SOLVER.WEIGHT_DECAY", 0.25)
    rates = Rates()
    run.register_hooks([rates])
    run.train()
    decayed = 0.5 * 0.1
    assert [rate for rate, _ in rates.seen] == pytest.approx([0.5, 0.5, decayed, decayed])
    assert {decay for _, decay in rates.seen} == {0.25}
