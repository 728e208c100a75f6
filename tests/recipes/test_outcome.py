"""The table at the end: which classes a teacher is evaluated on, and what is said of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fam_det.config import default_config
from fam_det.recipes import outcome
from fam_det.recipes.outcome import RemappedTeacher, Row, Validation

from detectron2.structures import Boxes, Instances

BOXES = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 5.0, 5.0], [2.0, 2.0, 6.0, 6.0]])


class Finds(nn.Module):
    """One object of each of the classes 7, 2 and 4, with masks."""

    def forward(self, batch: list[Any]) -> list[dict[str, Any]]:
        fields = {"pred_boxes": Boxes(BOXES), "pred_masks": torch.zeros(3, 8, 8)}
        classes = torch.tensor([7, 2, 4])
        return [{"instances": Instances((8, 8), pred_classes=classes, **fields)} for _ in batch]


def test_a_teacher_of_more_classes_finds_the_students_in_its_order() -> None:
    (found,) = RemappedTeacher(Finds(), [4, 7], default_config())([{}])
    assert found["instances"].pred_classes.tolist() == [1, 0]
    assert torch.equal(found["instances"].pred_boxes.tensor, BOXES[[0, 2]])
    assert not found["instances"].has("pred_masks")
    cfg = default_config()
    cfg.MODEL.MASK_ON = True
    assert RemappedTeacher(Finds(), [4, 7], cfg)([{}])[0]["instances"].has("pred_masks")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("person", "car"), "it does not find 'person'"),
        (("a", "b", "c"), "it finds 2 classes, not 3"),
    ],
)
def test_a_teacher_that_lacks_a_class_has_no_score(
    names: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        class_names = ("car", "bus") if "car" in names else None
        num_classes = 2

    monkeypatch.setattr(outcome, "read_teacher", lambda cfg: Known)
    data = Validation(names, None)
    scores, (note,) = outcome.teacher_scores(default_config(), Finds(), data, tmp_path)
    assert scores == {}
    assert note == f"the teacher has no AP: {message}"


def test_a_teacher_is_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, calls = default_config(), []
    cfg.MODEL.TEACHER.CLASSES = [7]

    def evaluate(cfg: Any, detector: Any, folder: Path) -> dict[str, float]:
        folder.mkdir(exist_ok=True)
        calls.append(folder)
        return {"bbox/AP": float(len(calls))}

    monkeypatch.setattr(outcome, "evaluate", evaluate)
    data = Validation(("cell",), None)
    for weights, expected in (("a.pth", 1.0), ("a.pth", 1.0), ("b.pth", 2.0)):
        cfg.MODEL.TEACHER.WEIGHTS = weights
        assert outcome.teacher_scores(cfg, Finds(), data, tmp_path)[0] == {"bbox/AP": expected}


def test_scores_are_those_of_the_end_and_the_best_is_named(tmp_path: Path) -> None:
    config = {"MODEL": {}, "SOLVER": {"MAX_ITER": 6}, "DATASETS": {"TEST": ["val"]}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [
        {"iteration": i, "bbox/AP": ap, "bbox/AP50": 2 * ap} for i, ap in ((3, 30.0), (6, 20.0))
    ]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines))
    row = outcome.student_row("student", tmp_path, "model_final.pth", 0.0125, 2_500_000)
    teacher = Row("teacher", {"bbox/AP": 40.0}, None, None, None, "-")
    table = outcome.format_rows([teacher, row]).splitlines()
    assert table[0].split("  ")[-1] == "checkpoint"
    assert table[2].split() == ["teacher", "40.0", "-", "-", "-", "-", "-"]
    assert table[3].split() == [
        "student",
        "20.0",
        "40.0",
        "30.0",
        "12.5",
        "2.50",
        "model_final.pth",
    ]
    after = outcome.next_commands(tmp_path, Validation((), Path("cells/a.png")), row)
    assert "tools/deploy.py" in after
    spaced = outcome.next_commands(Path("my run"), Validation((), Path("my cells/a.png")), row)
    assert "python tools/predict.py 'my run' 'my cells'\n" in spaced
    assert after.endswith("--weights " + f"{tmp_path}/model_best.pth for the best checkpoint.")
