"""When checkpoints are written, and which ones stay."""

from pathlib import Path

import torch

from fam_det.training.checkpointer import SafeCheckpointer
from fam_det.training.checkpoints import BoundedCheckpointer
from tests.training.small_training import trainer


def test_old_checkpoints_go_in_resumed_runs_too(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    checkpointer = SafeCheckpointer(run.model, str(tmp_path), trainer=run)
    run.register_hooks([BoundedCheckpointer(checkpointer, 2, keep=2)])
    run.train(0, 7)
    assert {x.name for x in tmp_path.glob("*.pth")} == {
        "model_0000003.pth",
        "model_0000005.pth",
        "model_final.pth",
    }
    again = trainer(tmp_path)
    checkpointer = SafeCheckpointer(again.model, str(tmp_path), trainer=again)
    again.register_hooks([BoundedCheckpointer(checkpointer, 2, keep=2)])
    again.train(6, 10)
    assert {x.name for x in tmp_path.glob("*.pth")} == {
        "model_0000007.pth",
        "model_0000009.pth",
        "model_final.pth",
    }


def test_a_run_killed_before_its_final_checkpoint_writes_it_when_resumed(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    checkpointer = SafeCheckpointer(run.model, str(tmp_path), trainer=run)
    run.register_hooks([BoundedCheckpointer(checkpointer, 2, keep=0)])
    run.train(0, 4)
    final = tmp_path / "model_final.pth"
    expected = torch.load(final, weights_only=True)
    final.unlink()
    checkpointer.tag_last_checkpoint("model_0000003.pth")
    again = trainer(tmp_path)
    checkpointer = SafeCheckpointer(again.model, str(tmp_path), trainer=again)
    again.register_hooks([BoundedCheckpointer(checkpointer, 2, keep=0)])
    checkpointer.resume_or_load("", resume=True)
    again.train(again.iter + 1, 4)
    written = torch.load(final, weights_only=True)
    assert written["iteration"] == expected["iteration"] == written["trainer"]["iteration"]
    for name, value in expected["model"].items():
        assert torch.equal(written["model"][name], value), name
