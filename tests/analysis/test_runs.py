"""Reading output folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from classification.config import get_cfg
from classification.distillers import FeatureShapes, build_distiller
from fam_det.analysis.checkpoint import count_parameters, find_checkpoint, read_weights
from fam_det.analysis.run_plots import training_metric
from fam_det.analysis.runs import read_run


def test_iterations_are_counted_from_one_and_timed(make_run: Any) -> None:
    run = read_run(make_run("a"))
    assert run.series("accuracy/top1") == [(21, 50.0), (61, 71.0), (100, 70.0)]
    assert (run.iterations, run.finished) == (100, True)
    assert run.seconds == 50.0  # 100 iterations of 0.5 s
    assert run.stages() == ["stage1", "pooled"]
    assert run.notes == []


def test_a_run_that_ended_early_is_finished(make_run: Any) -> None:
    folder = make_run("a", top1=(50.0, 71.0), SOLVER__PATIENCE=1)
    (folder / "last_checkpoint").write_text("model_0000059.pth")
    assert not read_run(folder).finished
    (folder / "last_checkpoint").write_text("model_final.pth")
    assert read_run(folder).finished


def test_half_a_line_of_a_killed_run_is_skipped_and_noted(make_run: Any) -> None:
    folder = make_run("a")
    with (folder / "metrics.json").open("a") as file:
        file.write('{"iteration": 119, "accura')
    run = read_run(folder)
    assert run.series("accuracy/top1")[-1] == (100, 70.0)
    (note,) = run.notes
    assert note.startswith(f"{folder / 'metrics.json'}: line 7 is not whole")


def test_undefined_value_is_no_value(make_run: Any) -> None:
    folder = make_run("a")
    (folder / "metrics.json").write_text('{"iteration": 9, "bbox/APs": NaN, "bbox/AP": 3.0}\n')
    run = read_run(folder)
    assert run.series("bbox/APs") == []
    assert run.series("bbox/AP") == [(10, 3.0)]


def test_loss_of_earlier_versions_goes_by_its_present_name(make_run: Any) -> None:
    folder = make_run("a", DATASETS={"TRAIN": ["bccd_train"]})
    lines = '{"iteration": 19, "total_loss": 3.0, "loss_fam": 1.0}\n'
    lines += '{"iteration": 39, "total_loss": 3.0, "loss_distill": 0.5}\n'
    (folder / "metrics.json").write_text(lines)
    run = read_run(folder)
    assert run.series("loss_distill") == [(20, 1.0), (40, 0.5)]
    assert training_metric(run) == [(20, 2.0), (40, 2.5)]


def test_first_of_several_test_sets_counts(make_run: Any) -> None:
    folder = make_run("a", DATASETS__TEST=["val", "test"])
    line = '{"iteration": 9, "val/bbox/AP": 3.0, "test/bbox/AP": 4.0}\n'
    (folder / "metrics.json").write_text(line)
    assert read_run(folder).series("bbox/AP") == [(10, 3.0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", None, "a/config.yaml: not there"),
        ("metrics.json", None, "a/metrics.json: not there"),
        ("config.yaml", "services: {}\n", "has no .*'DATASETS', 'MODEL', 'SOLVER'"),
        ("config.yaml", "a: [", "config.yaml: while parsing"),
        ("metrics.json", "[1]\n", "metrics.json: line 1: expected an object"),
        ("metrics.json", '{"time": 1}\n', "metrics.json: line 1: expected an object"),
    ],
)
def test_file_that_is_missing_or_of_something_else_is_named(
    make_run: Any, name: str, text: str | None, message: str
) -> None:
    folder = make_run("a")
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(folder)


def test_last_checkpoint_goes_before_the_final_one_and_that_before_the_best(make_run: Any) -> None:
    run = read_run(make_run("a"))
    for name in ("model_0000049.pth", "model_best.pth"):
        (run.folder / name).touch()
    (run.folder / "last_checkpoint").write_text("model_0000049.pth")
    order = []
    while file := find_checkpoint(run.folder):
        order.append(file.name)
        file.unlink()
    assert order == ["model_0000049.pth", "model_final.pth", "model_best.pth"]
    assert read_weights(run.folder) == {}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_file_that_is_no_checkpoint_is_named(make_run: Any, content: bytes | None) -> None:
    file: Path = make_run("a") / "model_final.pth"
    if content is None:
        torch.save([1], file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="a/model_final.pth: "):
        read_weights(file.parent)


def test_ap_without_detections_is_zero_and_the_last_one(make_run: Any) -> None:
    folder = make_run("a", DATASETS__TEST=["val", "test"])
    lines = '{"iteration": 9, "val/bbox/AP": 3.0, "val/bbox/APs": NaN, "test/bbox/AP": 4.0}\n'
    lines += '{"iteration": 19, "val/bbox/AP": NaN, "val/bbox/APs": NaN, "test/bbox/AP": 5.0}\n'
    (folder / "metrics.json").write_text(lines)
    run = read_run(folder)
    assert run.series("bbox/AP") == [(10, 3.0), (20, 0.0)]
    assert run.series("bbox/APs") == [(20, 0.0)]


def test_parameters_are_what_is_trained() -> None:
    modules = nn.ModuleDict(
        {"fc": nn.Linear(3, 2), "distiller": nn.Linear(4, 5), "bn": nn.Module()}
    )
    state = modules.state_dict()
    state |= {f"norm.{key}": value for key, value in nn.BatchNorm2d(7).state_dict().items()}
    frozen = nn.BatchNorm2d(9).state_dict()  # Detectron2's has buffers only, and counts no batches
    state |= {f"frozen.{k}": v for k, v in frozen.items() if k != "num_batches_tracked"}
    state["distiller.basis"] = torch.zeros(50, 8)
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    # 3 * 2 + 2 and the scale and shift of seven channels; 4 * 5 + 5
    assert count_parameters(state) == (8 + 14, 25)


@pytest.mark.parametrize("method", ["CRD", "WCoRD"])
def test_memories_and_norms_are_no_parameters(method: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.DISTILLER.NAME = method
    shapes = FeatureShapes([], 16, 2)
    model = nn.ModuleDict({"distiller": build_distiller(cfg, shapes, shapes, torch.arange(9) % 2)})
    trained = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(model.state_dict()) == (0, trained)
