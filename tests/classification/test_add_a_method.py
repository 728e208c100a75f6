"""The method of docs/add_a_method.md, built by its name as a user's would be."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from classification.config import get_cfg
from classification.distillers import DISTILLER_REGISTRY, FeatureShapes, build_distiller
from classification.engine import Trainer
from classification.models import Features

PAGE = Path(__file__).parent.parent.parent / "docs" / "add_a_method.md"
NAME = "PooledMSE"


@pytest.fixture
def example() -> Iterator[ModuleType]:
    """The page's code block as a module."""
    code, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    module = ModuleType("pooled_mse")
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    yield module
    del DISTILLER_REGISTRY._obj_map[NAME]


def test_it_is_built_by_name_and_its_loss_is_the_error(example: ModuleType) -> None:
    cfg = get_cfg()
    cfg.MODEL.DISTILLER.NAME = NAME
    shapes = [FeatureShapes([(2, 4, 4)], channels, 3) for channels in (5, 7)]
    distiller: Any = build_distiller(cfg, *shapes, torch.arange(6) % 3)
    assert isinstance(distiller, example.PooledMSE)
    student, teacher = (
        Features(maps, maps, torch.randn(4, s.pooled), torch.randn(4, 3))
        for s in shapes
        for maps in [[torch.randn(4, 2, 4, 4)]]
    )
    student.pooled.requires_grad_()
    (loss,) = distiller(student, teacher, torch.arange(4) % 3, torch.arange(4)).values()
    weight, bias = distiller.regressor.weight, distiller.regressor.bias
    expected = (student.pooled @ weight.T + bias - teacher.pooled).square().mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert student.pooled.grad is not None
    assert all(p.grad is not None for p in distiller.parameters())


def test_it_trains(example: ModuleType, make_cfg: Any) -> None:
    trainer = Trainer(make_cfg("MODEL.DISTILLER.NAME", NAME, "SOLVER.MAX_ITER", 2))
    trainer._hooks.clear()  # no evaluation, no files
    before = trainer.model.distiller.regressor.weight.detach().clone()
    trainer.train()
    assert trainer.model.loss_weight == example.PooledMSE.loss_weight
    assert not torch.equal(trainer.model.distiller.regressor.weight, before)
