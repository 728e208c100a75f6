"""The best checkpoint, and trainings that end early: whole, killed and resumed."""

import json
import logging
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.config import default_config
from fam_det.training.detection import Trainer
from tests.training.small_training import small_run
from tests.training.test_checkpointing import dies_at
from tests.training.test_group import exit_codes, fork_ranks
from tests.training.test_killed_runs import flat, same

PATIENCE = ("SOLVER.PATIENCE", 3)
# By iterations done. With patience for three, 4 is the best, and 10 the end.
SCORES = {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 10: 2.5, 12: 9.0, 14: 8.0}


def contents(folder: Path) -> dict[str, Any]:
    """What is in each checkpoint."""
    return {x.name: flat(torch.load(x, weights_only=True)) for x in folder.glob("*.pth")}


def iterations_done(folder: Path) -> dict[str, int]:
    return {
        name: int(content[".model.norm.num_batches_tracked"])
        for name, content in contents(folder).items()
    }


def evaluations(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {x["iteration"]: x["second/bbox/AP"] for x in lines if "eval_seconds" in x}


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].keys() == second[name].keys()
        assert [x for x in first[name] if not same(first[name][x], second[name][x])] == [], name


def test_a_run_ends_early_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fam_det"):
        small_run(tmp_path, *PATIENCE, scores=SCORES).train()
    done = iterations_done(tmp_path)
    assert (done["model_best.pth"], done["model_final.pth"]) == (4, 10)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert evaluations(tmp_path) == {i - 1: SCORES[i] for i in (2, 4, 6, 8, 10)}
    assert [record.getMessage() for record in caplog.records][-2:] == [
        "Ended after iteration 10 of 14: no better second/bbox/AP in 3 evaluations",
        f"Best second/bbox/AP: 3.00 after iteration 4, in {tmp_path}/model_best.pth",
    ]


def test_an_ended_run_stays_ended_until_it_may_go_on(tmp_path: Path) -> None:
    small_run(tmp_path / "ended", *PATIENCE, scores=SCORES).train()
    before = contents(tmp_path / "ended")
    small_run(tmp_path / "ended", *PATIENCE, scores=SCORES).train()
    assert_equal(contents(tmp_path / "ended"), before)
    small_run(tmp_path / "ended", scores=SCORES).train()
    small_run(tmp_path / "unbroken", scores=SCORES).train()
    done = iterations_done(tmp_path / "ended")
    assert done == iterations_done(tmp_path / "unbroken")
    assert (done["model_best.pth"], done["model_final.pth"]) == (12, 14)


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_killed_at_any_step_has_the_same_best(tmp_path: Path, stride: int) -> None:
    unbroken = tmp_path / "unbroken"
    small_run(unbroken, *PATIENCE, scores=SCORES).train()
    for step in count(0, stride):
        folder = tmp_path / str(step)
        child = os.fork()
        if not child:
            dies_at(step, folder)
            small_run(folder, *PATIENCE, scores=SCORES).train()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        small_run(folder, *PATIENCE, scores=SCORES).train()
        assert_equal(contents(folder), contents(unbroken))
        found = evaluations(folder)
        assert {i: found[i] for i in evaluations(unbroken)} == evaluations(unbroken)
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert step > 60


def end_early(folder: Path) -> None:
    small_run(folder, *PATIENCE, scores=SCORES).train()


def test_every_process_ends_after_the_same_iteration(tmp_path: Path) -> None:
    assert exit_codes(fork_ranks(end_early, tmp_path, args=tmp_path), 60.0) == [0, 0]
    assert iterations_done(tmp_path)["model_final.pth"] == 10


def test_patience_without_evaluations_names_both_keys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SOLVER.PATIENCE: got 3, but .*TEST.EVAL_PERIOD 0"):
        small_run(tmp_path, *PATIENCE, "TEST.EVAL_PERIOD", 0)


def test_masks_say_more_than_boxes_and_the_first_data_set_counts() -> None:
    cfg = default_config()
    cfg.DATASETS.TEST = ("a",)
    names = list(Trainer.main_metrics(cfg))
    assert names.index("segm/AP") < names.index("bbox/AP")
    cfg.DATASETS.TEST = ("b", "a")
    assert list(Trainer.main_metrics(cfg)) == [f"b/{name}" for name in names]
