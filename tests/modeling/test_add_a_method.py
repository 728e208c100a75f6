"""The detector's method of docs/add_a_method.md, run as a user would."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fam_det.modeling import DISTILLER_REGISTRY
from tests.modeling.small_detector import images, in_training

from detectron2.utils.events import EventStorage

PAGE = Path(__file__).parent.parent.parent / "docs" / "add_a_method.md"
NAME = "SmoothHints"


@pytest.fixture
def _example() -> Iterator[None]:
    """The page's code block, executed."""
    _, code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "smooth_hints"})
    yield
    del DISTILLER_REGISTRY._obj_map[NAME]


@pytest.mark.usefixtures("_example")
def test_it_is_built_by_name_and_its_loss_is_smooth_l1(
    build: Callable[..., Any], storage: EventStorage
) -> None:
    model = in_training(build("MODEL.DISTILLER.NAME", NAME))
    model(images((64, 96), (96, 64)))["loss_distill"].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())
    student = {level: torch.randn(1, 16, 4, 4) for level in model.distiller.levels}
    teacher = {level: torch.randn(1, 24, 4, 4) for level in model.distiller.levels}
    losses = model.distiller(student, teacher, {level: [(3, 4)] for level in student})
    x = model.distiller.transform(list(student.values()))[0][:, :, :3]
    torch.testing.assert_close(losses["p2"], F.smooth_l1_loss(x, teacher["p2"][:, :, :3]))
