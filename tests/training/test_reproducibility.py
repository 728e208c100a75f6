"""DETERMINISTIC: PyTorch's switches."""

import os
from collections.abc import Iterator

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss

from fam_det.training.reproducibility import make_deterministic, without_jit_optimization


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)


def test_pytorch_takes_deterministic_algorithms() -> None:
    torch.backends.cudnn.benchmark = True
    make_deterministic(0)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_user_s_own_workspace_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_deterministic(3)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_seed_that_is_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="DETERMINISTIC: got True with SEED -1, expected a SEED"):
        make_deterministic(-1)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_script_gives_the_same_gradient_the_first_time_and_later() -> None:
    """RetinaNet's focal loss, without which the first iteration of a process would be its own."""
    script = torch.jit.script(sigmoid_focal_loss)
    torch.manual_seed(0)
    logits, targets = torch.randn(4000, 3), (torch.rand(4000, 3) < 0.1).float()
    gradients = []
    for _ in range(4):
        leaf = logits.clone().requires_grad_()
        with without_jit_optimization(torch.nn.Linear(1, 1)):
            script(leaf, targets, 0.25, 2.0, "sum").backward()
        gradients.append(leaf.grad)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
