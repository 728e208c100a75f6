"""Data-parallel training as Detectron2 does it: no search for unused parameters."""

import copy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fam_det.core import KnowledgeReview
from fam_det.modeling.sync_batch_norm import SyncBatchNorm, set_norm
from tests.modeling.small_detector import small_config

from detectron2.modeling import build_model


def test_two_processes_train_the_same_weights() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.modeling.ddp_steps"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def follow(processes: int, file: Path, opts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Weights after some steps on one batch a step, shared out over the processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", "-m", "tests.modeling.follow_steps", str(file)]
    done = subprocess.run([*command, *opts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    weights: dict[str, torch.Tensor] = torch.load(file)
    return weights


FROZEN = ("MODEL.MOBILENETV2.NORM", "FrozenBN", "MODEL.FPN.NORM", "")
SYNCHRONISED = ("MODEL.MOBILENETV2.NORM", "naiveSyncBN", "MODEL.FPN.NORM", "naiveSyncBN")


@pytest.mark.slow
@pytest.mark.parametrize(
    "opts",
    [
        pytest.param((*FROZEN, "MODEL.DISTILLER.FUSION", "cross_attention"), id="frozen, FAM-KD"),
        pytest.param(
            (*SYNCHRONISED, "MODEL.DISTILLER.FUSION", "abf"), id="synchronised, FAM + ReviewKD"
        ),
    ],
)
def test_two_processes_with_half_the_batch_follow_one_with_all_of_it(
    tmp_path: Path, opts: tuple[str, ...]
) -> None:
    teacher = "['MODEL.RESNETS.NORM', 'FrozenBN', 'MODEL.FPN.NORM', '']"
    opts = (*opts, "MODEL.DISTILLER.NORM", "SyncBN", "MODEL.TEACHER.OPTS", teacher)
    one = follow(1, tmp_path / "one.pth", opts)
    two = follow(2, tmp_path / "two.pth", opts)
    start = build_model(small_config(*opts)).double()
    moved = max(
        (p - one[k]).abs().max() for k, p in start.named_parameters() if k.startswith("distiller.")
    )
    assert moved > 1e-3
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-6, atol=1e-6)


def test_synchronised_norm_is_the_plain_one_in_one_process() -> None:
    torch.manual_seed(0)
    plain = KnowledgeReview([4, 4], 4, [4, 4], relu=False)
    synchronised = copy.deepcopy(plain)
    set_norm(synchronised, "SyncBN")
    assert sum(isinstance(m, SyncBatchNorm) for m in synchronised.modules()) == 2
    assert list(synchronised.state_dict()) == list(plain.state_dict())
    for size in (8, 1):  # a lone value has no variance
        x = [torch.randn(1, 4, size, size), torch.randn(1, 4, 1, 1)]
        for a, b in zip(plain(x), synchronised(x), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"MODEL.DISTILLER.NORM: got 'GN', expected one of"):
        set_norm(plain, "GN")
