"""What the suites compare does the same work."""

from itertools import islice
from typing import Any

import pytest
import torch

from tools.benchmark import step
from tools.benchmark.data import BATCH, MEAN, STD
from tools.benchmark.data import cases as data_cases
from tools.benchmark.suites import SUITES, cases


def test_a_suite_is_found_by_its_name() -> None:
    for suite in ("data", "growth", "core"):
        assert next(cases(suite, "cpu")).name
    assert list(SUITES) == ["core", "head", "step", "eval", "data", "growth"]


def test_both_loaders_give_batches_of_the_same_kind() -> None:
    (case,) = data_cases("cpu")
    loaders = [way.__closure__[1].cell_contents for way in (case.project, case.reference)]
    loaders[1] = torch.utils.data.DataLoader(loaders[1].dataset, BATCH, shuffle=True)
    statistics = []
    for loader in loaders:
        images = torch.cat([batch[0] for batch in islice(loader, 4)])
        assert images.shape == (4 * BATCH, 3, 32, 32)
        assert images.dtype == torch.float32
        statistics.append(torch.stack([images.mean((0, 2, 3)), images.std((0, 2, 3))]))
    # Noise of mean 0.5 and deviation 0.29, with black where the crop reaches over the border.
    torch.testing.assert_close(statistics[0], statistics[1], rtol=0.05, atol=0.03)
    black = (0 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(images.amin((0, 2, 3)), black)


def test_growth_names_how_much_more_there_is() -> None:
    grown = [case.growth for case in cases("growth", "cpu")]
    areas = [("area", factor) for factor in (2.0, 4.0, 8.0, 16.0)]  # of a quarter megapixel
    assert grown == areas + [("channels", factor) for factor in (2.0, 4.0, 8.0)]


def test_step_with_and_without_the_distiller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "IMAGES", {"cpu": (1, 64, 96)})
    monkeypatch.setattr(step, "TEACHER", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    model = step.build([], "cpu").train()
    inputs: list[dict[str, Any]] = step.random_inputs("cpu")
    before = {name: x.clone() for name, x in model.named_parameters()}
    for distil in (True, False):
        model.zero_grad()
        step.step(model, inputs, distil=distil)()
        for name, x in model.named_parameters():
            assert torch.equal(x, before[name])  # a step of no length
            assert not name.startswith("distiller.") or distil == (x.grad is not None)
