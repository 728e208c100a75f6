"""Two trainings in one process, a detector's in the middle of a classifier's, are each as alone."""

from pathlib import Path
from typing import Any

import pytest

from classification.engine import Trainer
from tests.training.test_exact_resume import Losses, assert_same, opts, train

from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng


class InTheMiddle(HookBase):
    """Another training, whole, between two iterations of this one."""

    def __init__(self, options: list[str]) -> None:
        self.options = options
        self.outcome: Any = None

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            self.outcome = train(self.options)


def classify(cfg: Any, folder: Path, *hooks: HookBase) -> Any:
    cfg.OUTPUT_DIR = str(folder)
    folder.mkdir()
    seed_all_rng(cfg.SEED)
    run = Trainer(cfg)
    losses = Losses(None)
    run.register_hooks([*hooks, losses])
    run.train()
    return losses.by_iteration, run.model.state_dict()


@pytest.mark.slow
def test_they_do_not_disturb_each_other(tmp_path: Path, cells: str, make_cfg: Any) -> None:
    detector = train(opts(cells, tmp_path / "detector", "RetinaNet"))
    classifier = classify(make_cfg(), tmp_path / "classifier")
    other = InTheMiddle(opts(cells, tmp_path / "detector2", "RetinaNet"))
    assert_same(classify(make_cfg(), tmp_path / "classifier2", other), classifier)
    assert_same(other.outcome, detector)
