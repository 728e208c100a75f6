"""Both sides of a suite do the same work."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.benchmark import __main__ as tool
from tools.benchmark import head, step
from tools.benchmark.data import BATCH, MEAN, STD, build_loaders
from tools.benchmark.measuring import Case


def test_a_suite_is_found_by_its_name() -> None:
    assert next(tool.cases("data", "cpu")).name
    assert list(tool.SUITES) == ["kernels", "head", "step", "data"]


def test_the_tool_prints_a_table_and_writes_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(name="nothing", project=int, reference=lambda: torch.empty(9), seconds=0.0)
    monkeypatch.setattr(tool, "cases", lambda suite, device: iter([case]))
    file = tmp_path / "new" / "rows.json"
    assert tool.main(["--suite", "head", "--threads", "1", "--json", str(file)]) == 0
    assert "| nothing |" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())["suites"]["head"]
    sides = [f"{side}_{unit}" for side in ("project", "reference") for unit in ("ms", "mib")]
    keys = {*sides, "project_parameters", "reference_parameters", "name", "ratio", "quartiles"}
    keys |= {"pairs", "time_goal", "memory_goal", "memory_ratio", "growth"}
    assert row.keys() == keys


def test_both_loaders_give_batches_of_the_same_kind() -> None:
    statistics = []
    for loader in build_loaders("cpu", workers=0):
        images = torch.cat([batch[0] for batch in islice(loader, 4)])
        assert images.shape == (4 * BATCH, 3, 32, 32)
        assert images.dtype == torch.float32
        statistics.append(torch.stack([images.mean((0, 2, 3)), images.std((0, 2, 3))]))
    # Noise of mean 0.5 and deviation 0.29, with black where the crop reaches over the border.
    torch.testing.assert_close(statistics[0], statistics[1], rtol=0.05, atol=0.03)
    black = (0 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(images.amin((0, 2, 3)), black)


def test_growth_names_how_much_more_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "head_step", lambda size, channels, device: print)
    grown = [case.growth for case in head.growth("cpu")]
    areas = [("area", factor) for factor in (2.0, 4.0, 8.0, 16.0)]  # of a quarter megapixel
    assert grown == areas + [("channels", factor) for factor in (2.0, 4.0, 8.0)]


def test_step_with_and_without_the_distiller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "IMAGES", {"cpu": (1, 64, 96)})
    monkeypatch.setattr(step, "TEACHER", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    model = step.build({}, "cpu")
    model.load_teacher()
    model.train()
    inputs: list[dict[str, Any]] = step.random_inputs("cpu")
    before = {name: x.clone() for name, x in model.named_parameters()}
    for distil in (True, False):
        model.zero_grad()
        step.step(model, inputs, distil=distil)()
        for name, x in model.named_parameters():
            assert torch.equal(x, before[name])  # a step of no length
            assert not name.startswith("distiller.") or distil == (x.grad is not None)
