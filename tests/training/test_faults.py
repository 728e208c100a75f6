"""What a training does about losses that are not finite, about signals, and about full folders."""

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fam_det.modeling  # noqa: F401  makes Detectron2 ready, so it comes first
from fam_det.training.checkpointer import SafeCheckpointer
from fam_det.training.checkpoints import BoundedCheckpointer
from fam_det.training.last_line import ending_in_one_line
from fam_det.training.non_finite import StepTrainer
from fam_det.training.stop import StopOnSignal

from detectron2.engine import HookBase


class Model(nn.Module):
    """A loss of a linear map behind a BatchNorm; NaN for an image that is NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(2)
        self.linear = nn.Linear(2, 1)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = torch.stack([item["image"] for item in batch])
        return {"loss": self.linear(self.norm(images)).square().mean()}


class Batches:
    """Batch k is a function of k; those of ``broken`` hold a NaN."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken = broken
        self.start_iter = 0

    def __iter__(self) -> Any:
        number = self.start_iter
        while True:
            images = torch.randn(4, 2, generator=torch.Generator().manual_seed(number))
            if number in self.broken:
                images[1, 0] = torch.nan
            yield [{"image": x, "file_name": f"{number}_{i}.png"} for i, x in enumerate(images)]
            number += 1


def trainer(folder: Path, broken: tuple[int, ...] = (), most: int = 0) -> StepTrainer:
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = StepTrainer(model, Batches(broken), optimiser)
    made.folder, made.max_non_finite = str(folder), most
    return made


def test_an_iteration_whose_loss_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    run = trainer(tmp_path, broken=(2, 4), most=2)
    run.train(0, 7)
    # By hand: the same batches without the two.
    model = Model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number, batch in zip(range(7), Batches(), strict=False):
        if number not in (2, 4):
            optimiser.zero_grad()
            model(batch)["loss"].backward()
            optimiser.step()
    for name, value in model.state_dict().items():
        assert torch.equal(run.model.state_dict()[name], value), name
    assert run.state_dict()["passed_over"] == 2
    lines = [json.loads(x) for x in (tmp_path / "non_finite.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4]
    (process,) = lines[0]["processes"]
    assert process["losses"] == "loss nan"
    assert process["images"][1] == {"file_name": "2_1.png"}


def test_one_too_many_ends_the_training_and_a_resumed_run_counts_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, broken=(0, 2), most=1)
    with pytest.raises(FloatingPointError, match=r"iteration 2: .*MAX_NON_FINITE lets 1 such"):
        run.train(0, 5)
    again = trainer(tmp_path, broken=(3,), most=1)
    again.data_loader.start_iter = 3
    again.load_state_dict({**again.state_dict(), "passed_over": 1})
    with pytest.raises(FloatingPointError, match="non_finite.json"):
        again.train(3, 5)


class Signalled(HookBase):
    """Signals this process in an iteration, as a scheduler would."""

    def __init__(self, iteration: int, number: int) -> None:
        self.iteration, self.number = iteration, number

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_iteration_saves_and_leaves(
    number: int, code: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run = trainer(tmp_path)
    checkpointer = SafeCheckpointer(run.model, str(tmp_path), trainer=run)
    run.register_hooks([StopOnSignal(checkpointer), Signalled(3, number)])
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as left:
        run.train(0, 10)
    assert left.value.code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert "stopped after iteration 4 of 10, saved in" in caplog.text

    again = trainer(tmp_path)
    resumed = SafeCheckpointer(again.model, str(tmp_path), trainer=again)
    resumed.resume_or_load("", resume=True)
    again.data_loader.start_iter = again.iter + 1
    again.train(again.iter + 1, 10)
    unbroken = trainer(tmp_path)
    unbroken.train(0, 10)
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "lower SOLVER.IMS_PER_BATCH"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_fault_ends_in_a_line_that_says_what_is_kept(
    error: Exception, line: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"{line}.*; no checkpoint was written yet"):
        with ending_in_one_line(str(tmp_path)):
            raise error
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    with pytest.raises(SystemExit, match=f"{line}.*kept: .*/model_0000003.pth; go on with --res"):
        with ending_in_one_line(str(tmp_path)):
            raise error


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
