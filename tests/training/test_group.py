"""Groups of processes on CPUs (gloo): a lost process, a frozen one, signals, sums."""

import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training import launch
from fam_det.training.checkpointing import BoundedCheckpointer
from fam_det.training.evaluation import Evaluation
from fam_det.training.signals import StopOnSignal
from fam_det.training.trainer import ddp_options
from tests.training.small_training import Model, trainer

from detectron2.engine import HookBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm

Fault = Callable[[], None]


def signals_itself(*numbers: int, rank: int | None = None) -> Fault:
    def fault() -> None:
        if rank in (None, comm.get_rank()):
            for number in numbers:
                os.kill(os.getpid(), number)

    return fault


class AtIteration(HookBase):
    def __init__(self, iteration: int, fault: Fault) -> None:
        self.iteration, self.fault = iteration, fault

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            self.fault()


def train(folder: Path, in_iteration: Fault, in_evaluation: Fault) -> None:
    """Ten iterations, a checkpoint after each two, an evaluation after five."""
    run = trainer(folder, model=DistributedDataParallel(Model()))
    checkpointer = SafeCheckpointer(
        run.model, str(folder), save_to_disk=comm.is_main_process(), trainer=run
    )
    hooks: list[Any] = [
        BoundedCheckpointer(checkpointer, 2, keep=0) if comm.is_main_process() else None,
        StopOnSignal(checkpointer),
        Evaluation(5, in_evaluation, str(folder)),
        AtIteration(3, in_iteration),
    ]
    run.register_hooks(hooks)
    run.train(0, 10)


def fork_ranks(
    main: Callable[[Any], None], folder: Path, size: int = 2, args: Any = None
) -> list[int]:
    """Starts the processes of a run; one that fails leaves a log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child:
            children.append(child)
            continue
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "MASTER_PORT": port}
        sizes = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        names = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
        if size > 1:
            os.environ |= {key: str(x) for key, x in {**numbers, **sizes, **names}.items()}
        code = 1
        try:
            torch.set_num_threads(1)
            launch.launch(main, args)
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        except BaseException:
            (folder / f"log{rank}.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return children


def exit_codes(children: list[int], seconds: float = 120.0) -> list[int | None]:
    """Of each; None for one that is still there, and that is then killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(codes) < len(children) and time.monotonic() < end:
        for child in set(children) - set(codes):
            number, status = os.waitpid(child, os.WNOHANG)
            if number:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for child in set(children) - set(codes):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [codes.get(child) for child in children]


def nothing() -> None:
    """No fault, and an evaluation without results."""


def run(folder: Path, in_iteration: Fault = nothing, in_evaluation: Fault = nothing) -> list[int]:
    return fork_ranks(lambda _: train(folder, in_iteration, in_evaluation), folder)


def last_checkpoint(folder: Path) -> tuple[str, int]:
    name = (folder / "last_checkpoint").read_text()
    return name, torch.load(folder / name)["iteration"]


def test_the_rest_of_a_group_ends_when_a_process_is_killed(tmp_path: Path) -> None:
    killed = run(tmp_path, signals_itself(signal.SIGKILL, rank=1))
    assert exit_codes(killed) == [1, -signal.SIGKILL]
    assert last_checkpoint(tmp_path) == ("model_0000001.pth", 1)


@pytest.mark.slow
def test_the_rest_of_a_group_ends_when_a_process_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "TIMEOUT", timedelta(seconds=10))
    first, frozen = run(tmp_path, signals_itself(signal.SIGSTOP, rank=1))
    assert exit_codes([first]) == [1]
    assert exit_codes([frozen], seconds=0.0) == [None]  # it would be there still
    assert re.search("[Tt]ime(d |)out", (tmp_path / "log0.txt").read_text())
    assert last_checkpoint(tmp_path) == ("model_0000001.pth", 1)


def test_a_group_that_gets_a_signal_twice_saves_and_leaves(tmp_path: Path) -> None:
    """A scheduler's, and torchrun's after it."""
    told = run(tmp_path, signals_itself(signal.SIGTERM, signal.SIGTERM))
    assert exit_codes(told) == [143, 143]
    assert last_checkpoint(tmp_path) == ("model_0000003.pth", 3)


def test_one_process_that_gets_a_signal_takes_the_group_along(tmp_path: Path) -> None:
    told = run(tmp_path, signals_itself(signal.SIGINT, rank=1))
    assert exit_codes(told) == [130, 130]
    assert last_checkpoint(tmp_path) == ("model_0000003.pth", 3)


def test_a_group_that_gets_a_signal_in_an_evaluation_saves_at_once(tmp_path: Path) -> None:
    told = run(tmp_path, in_evaluation=signals_itself(signal.SIGTERM))
    assert exit_codes(told) == [143, 143]
    assert last_checkpoint(tmp_path) == ("model_0000004.pth", 4)


def test_a_group_that_does_not_share_its_folder_is_not_resumed(tmp_path: Path) -> None:
    """Otherwise its processes would train other weights from other iterations."""
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    SafeCheckpointer(Model(), str(tmp_path / "0")).save("model_0000001")

    def resume(_: Any) -> None:
        checkpointer = SafeCheckpointer(Model(), str(tmp_path / str(comm.get_rank())))
        with pytest.raises(ValueError, match="1 of 2 processes find a checkpoint"):
            checkpointer.resume_or_load("", resume=True)

    assert exit_codes(fork_ranks(resume, tmp_path)) == [0, 0]


def test_a_group_of_three_sums_its_first_gradients_as_all_others(tmp_path: Path) -> None:
    """Otherwise a resumed run would differ in the last bits; with two there is one order only."""

    def check(_: Any) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 256))
        model = create_ddp_model(model, **ddp_options("cpu"))
        images = torch.randn(8, 64, generator=torch.Generator().manual_seed(comm.get_rank()))
        gradients = []
        for _ in range(3):
            model.zero_grad()
            model(images).square().mean().backward()
            gradients.append(torch.cat([x.grad.flatten() for x in model.parameters()]))
        assert torch.equal(gradients[0], gradients[1])
        assert torch.equal(gradients[0], gradients[2])

    assert exit_codes(fork_ranks(check, tmp_path, size=3)) == [0, 0, 0]
