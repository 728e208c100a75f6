"""At inference nothing is added: the stock student's outputs, and none of the teacher's work."""

import pytest
import torch
from torch import nn

from tests.modeling.small_detector import STUDENTS, images, small_config

from detectron2.modeling import META_ARCH_REGISTRY, build_model


def run_modules(model: nn.Module, batch: object) -> tuple[list[nn.Module], list[dict[str, object]]]:
    """The modules that a call runs, and what it gives."""
    ran: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: ran.append(m))
    try:
        with torch.no_grad():
            outputs = model(batch)
    finally:
        handle.remove()
    return ran, outputs


@pytest.mark.parametrize("name", STUDENTS)
def test_outputs_and_work_are_the_stock_students(name: str) -> None:
    cfg = small_config("MODEL.STUDENT.META_ARCHITECTURE", name, *STUDENTS[name])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    stock = META_ARCH_REGISTRY.get(name)(cfg).eval()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("distiller.")}
    stock.load_state_dict(own)
    batch = images((64, 96), (96, 64))
    ran, outputs = run_modules(model, batch)
    expected_ran, expected = run_modules(stock, batch)
    assert not {*model.teacher.modules(), *model.distiller.modules()} & set(ran)
    ours = [type(m) for m in ran if m is not model]
    assert ours == [type(m) for m in expected_ran]
    for got, want in zip(outputs, expected, strict=True):
        got, want = got["instances"], want["instances"]
        assert len(got) > 0
        assert got.get_fields().keys() == want.get_fields().keys()
        assert torch.equal(got.pred_boxes.tensor, want.pred_boxes.tensor)
        assert torch.equal(got.scores, want.scores)
        assert torch.equal(got.pred_classes, want.pred_classes)
