"""When checkpoints are written, and which ones stay."""

import io
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training.non_finite import AMPStepTrainer
from tests.training.small_training import (
    Batches,
    Model,
    SmallTrainer,
    every_second,
    small_run,
    with_checkpoints,
)

from detectron2.config import CfgNode


def test_old_checkpoints_go_in_resumed_runs_too(tmp_path: Path) -> None:
    for start, end, kept in ((0, 7, "35"), (6, 10, "79")):
        run, _ = with_checkpoints(tmp_path, every_second(keep=2))
        run.train(start, end)
        names = {"model_final.pth", *(f"model_000000{i}.pth" for i in kept)}
        assert {x.name for x in tmp_path.glob("*.pth")} == names


def test_a_run_killed_before_its_final_checkpoint_writes_it_when_resumed(tmp_path: Path) -> None:
    run, checkpointer = with_checkpoints(tmp_path, every_second(keep=0))
    run.train(0, 4)
    final = tmp_path / "model_final.pth"
    expected = torch.load(final, weights_only=True)
    final.unlink()
    checkpointer.tag_last_checkpoint("model_0000003.pth")
    again, checkpointer = with_checkpoints(tmp_path, every_second(keep=0))
    checkpointer.resume_or_load("", resume=True)
    again.train(again.iter + 1, 4)
    written = torch.load(final, weights_only=True)
    assert written["iteration"] == expected["iteration"] == written["trainer"]["iteration"]
    for name, value in expected["model"].items():
        assert torch.equal(written["model"][name], value), name


def test_the_scale_of_mixed_precision_goes_on(tmp_path: Path) -> None:
    def mixed(scale: float) -> AMPStepTrainer:
        model = Model()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return AMPStepTrainer(model, Batches(), optimiser, grad_scaler=scaler)

    run, again = mixed(512.0), mixed(65536.0)
    loss = run.grad_scaler.scale(sum(p.sum() for p in run.model.parameters()))
    loss.backward()
    run.grad_scaler.step(run.optimizer)
    run.grad_scaler.update()  # counts a step without overflow
    SafeCheckpointer(run.model, str(tmp_path), trainer=run).save("model_0000000")
    SafeCheckpointer(again.model, str(tmp_path), trainer=again).resume_or_load("", resume=True)
    assert again.grad_scaler.state_dict() == run.grad_scaler.state_dict()
    assert again.grad_scaler.get_scale() == 512.0
    assert again.grad_scaler.state_dict()["_growth_tracker"] == 1


def test_a_copy_of_a_checkpoint_is_kept_and_no_error(tmp_path: Path) -> None:
    run, _ = with_checkpoints(tmp_path, every_second(keep=1))
    run.train(0, 4)
    copy = tmp_path / "model_0000001 (copy).pth"
    copy.touch()
    run, _ = with_checkpoints(tmp_path, every_second(keep=1))
    run.train(4, 6)
    names = {"model_final.pth", "model_0000005.pth", copy.name}
    assert {x.name for x in tmp_path.glob("*.pth")} == names


class Dense(Model):
    """Divides its loss by a running count, as RetinaNet does."""

    loss_normalizer = 100.0

    def _ema_update(self) -> None:
        """Marks a dense detector."""

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.loss_normalizer = 0.9 * self.loss_normalizer + len(batch)
        return {name: x / self.loss_normalizer for name, x in super().forward(batch).items()}


class DenseTrainer(SmallTrainer):
    @classmethod
    def build_model(cls, cfg: CfgNode) -> Dense:
        return Dense()


def test_a_resumed_dense_detector_has_the_count_that_precise_bn_left(tmp_path: Path) -> None:
    options = ("TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 3)
    unbroken = small_run(tmp_path, *options, trainer=DenseTrainer)
    unbroken.train()
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    resumed = small_run(tmp_path, *options, trainer=DenseTrainer)
    assert resumed.start_iter == 6
    resumed.train()
    assert resumed.model.loss_normalizer == unbroken.model.loss_normalizer
    assert torch.equal(resumed.model.linear.weight, unbroken.model.linear.weight)


def dies_at(step: int, folder: Path) -> None:
    """Let this process be killed at its step-th touch of a file in a folder, or half through."""
    steps = iter(range(step))

    def touch(event: str, args: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(folder) in str(args[0]):
            if next(steps, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

    def save_in_halves(content: Any, path: Path) -> None:
        whole = io.BytesIO()
        save(content, whole)
        half = len(whole.getvalue()) // 2
        path.write_bytes(whole.getvalue()[:half])
        touch("open", (path,))
        with path.open("ab") as file:
            file.write(whole.getvalue()[half:])

    save, torch.save = torch.save, save_in_halves
    sys.addaudithook(touch)


def run_to_the_end(folder: Path) -> None:
    run, checkpointer = with_checkpoints(folder, every_second(keep=1))
    checkpointer.resume_or_load("", resume=True)
    start = run.iter + 1 if checkpointer.has_checkpoint() else 0
    run.data_loader.start_iter = start
    run.train(start, 5)


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_step_of_the_saves_is_made_up_for(tmp_path: Path, stride: int) -> None:
    run_to_the_end(tmp_path / "unbroken")
    expected = {x.name: torch.load(x) for x in (tmp_path / "unbroken").glob("*.pth")}
    assert set(expected) == {"model_0000003.pth", "model_final.pth"}
    for step in count(0, stride):
        folder = tmp_path / str(step)
        child = os.fork()
        if not child:
            dies_at(step, folder)
            run_to_the_end(folder)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        run_to_the_end(folder)
        assert {x.name for x in folder.iterdir()} == {*expected, "last_checkpoint"}
        for name, content in expected.items():
            found = torch.load(folder / name)
            assert found["iteration"] == content["iteration"]
            assert all(torch.equal(found["model"][k], x) for k, x in content["model"].items())
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert step > 30  # so many kills
