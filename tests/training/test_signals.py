"""What a training does about SIGTERM and Ctrl-C."""

import logging
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from fam_det.training import signals
from fam_det.training.signals import StopOnSignal
from tests.training.small_training import trainer, with_checkpoints

from detectron2.engine import HookBase


class Signalled(HookBase):
    """Signals this process in an iteration, as a scheduler would."""

    def __init__(self, iteration: int, number: int) -> None:
        self.iteration, self.number = iteration, number

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)
            os.kill(os.getpid(), self.number)  # torchrun's, after the scheduler's


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_iteration_saves_and_leaves(
    number: int, code: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run, _ = with_checkpoints(tmp_path, StopOnSignal, lambda _: Signalled(3, number))
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as left:
        run.train(0, 10)
    assert left.value.code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert "stopped after iteration 4 of 10, saved in" in caplog.text

    again, resumed = with_checkpoints(tmp_path)
    resumed.resume_or_load("", resume=True)
    again.data_loader.start_iter = again.iter + 1
    again.train(again.iter + 1, 10)
    unbroken = trainer(tmp_path)
    unbroken.train(0, 10)
    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_second_signal_ends_a_process_that_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "ECHO", 0.0)
    run, _ = with_checkpoints(tmp_path, StopOnSignal, lambda _: Signalled(3, signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        run.train(0, 10)
    assert left.value.code == 143
    assert not list(tmp_path.glob("*.pth"))


class TakesAMinute(HookBase):
    """An iteration that does not end, for all that Python can do."""

    def before_step(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Event().wait(60)


def test_a_process_that_cannot_end_its_iteration_is_ended(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        signals.GRACE = 0.1
        run, _ = with_checkpoints(tmp_path, StopOnSignal, lambda _: TakesAMinute())
        run.train(0, 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


def test_a_program_that_goes_on_after_its_training_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "GRACE", 0.2)
    before = threading.active_count()
    run, _ = with_checkpoints(tmp_path, StopOnSignal, lambda _: Signalled(0, signal.SIGINT))
    with pytest.raises(SystemExit):
        run.train(0, 3)
    for thread in threading.enumerate()[before:]:
        thread.join(5)  # it would end this process
