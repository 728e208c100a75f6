"""Images of any size, one after another: nothing is kept, nothing waits for the device."""

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from fam_det.core import FAMOptions, KnowledgeReview, LayerToLayer, hierarchical_context_loss

WIDTHS = [4, 4, 4]
HEADS: dict[str, dict[str, Any]] = {
    "FAM-KD": {},
    "FAM-KD banded": {"fam": FAMOptions(filter="banded")},
    "FAM + ReviewKD pooled": {"fusion": "abf", "fam": FAMOptions(filter="pooled")},
    "ReviewKD": {"fusion": "abf", "transform": "conv3x3"},
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "layer to layer":
        return LayerToLayer(WIDTHS, WIDTHS, relu=False)
    return KnowledgeReview(WIDTHS, 4, WIDTHS, relu=False, **HEADS[name])


def step(head: nn.Module, height: int, width: int) -> None:
    maps = [torch.randn(1, 4, -(-height // s), -(-width // s)) for s in (4, 8, 16)]
    losses = [hierarchical_context_loss(x, torch.zeros_like(x)) for x in head(maps)]
    torch.stack(losses).sum().backward()
    head.zero_grad()


def held() -> tuple[int, int]:
    """Number of live tensors, and their bytes."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]
    return len(tensors), sum(x.untyped_storage().nbytes() for x in tensors)


@pytest.fixture(params=[*HEADS, "layer to layer"])
def head(request: pytest.FixtureRequest) -> Iterator[nn.Module]:
    yield build(request.param)


def test_many_image_sizes_leave_nothing_behind(head: nn.Module) -> None:
    step(head, 64, 64)
    before = held()
    for height, width in torch.randint(33, 257, (15, 2)).tolist():
        step(head, height, width)
    assert held() == before


def test_no_value_is_read_back_from_the_device(
    head: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    with torch.device("meta"):  # whose tensors have no values: reading one raises
        step(head.to("meta"), 64, 96)
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.ones(3).tolist()
