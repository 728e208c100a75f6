"""DETERMINISTIC: PyTorch's switches."""

import os
from collections.abc import Iterator

import pytest
import torch

from fam_det.training.determinism import make_deterministic


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
