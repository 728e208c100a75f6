"""The trainer: what it loads before the first step, in which order, and how many load it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.config import default_config
from fam_det.data.audit import forget_warnings, kept_warnings
from fam_det.files.metrics_file import read_metrics
from fam_det.training.detection import load_config, warn_of_frozen_noise
from fam_det.training.trainer import ResumableTrainer
from tests.training.small_training import Batches, Model, SmallTrainer, small_run

from detectron2.config import CfgNode


class Student(Model):
    """Takes its bias from a teacher of value 5, plus its own weight."""

    def load_teacher(self, _: Any) -> None:
        self.linear.bias.data = 5.0 + self.linear.weight.data[0, :1]


class Trainer(ResumableTrainer):
    @classmethod
    def build_model(cls, cfg: CfgNode) -> Student:
        return Student()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Batches:
        return Batches()


def test_the_teacher_is_loaded_after_the_students_weights(tmp_path: Path) -> None:
    weights = Student().state_dict()
    weights["linear.weight"] = torch.full((1, 2), 2.0)
    torch.save({"model": weights}, tmp_path / "start.pth")
    cfg: Any = default_config()
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", str(tmp_path)
    cfg.MODEL.WEIGHTS = str(tmp_path / "start.pth")
    run = Trainer(cfg)
    run.resume_or_load()
    assert run.model.linear.bias.item() == 7.0


class AugmentedTrainer(SmallTrainer):
    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: Any) -> dict[str, Any]:
        return {"bbox_TTA": {"AP": 7.0}}


def test_the_ap_with_augmentation_is_in_the_metrics(tmp_path: Path) -> None:
    small_run(tmp_path, "TEST.AUG.ENABLED", True, trainer=AugmentedTrainer).train()
    assert read_metrics(tmp_path / "metrics.json")[-1]["bbox_TTA/AP"] == 7.0


@pytest.mark.parametrize(
    ("words", "warnings"),
    [
        (
            ["MODEL.WEIGHTS", "none"],
            [
                "MODEL.WEIGHTS is empty and the backbone random: MODEL.RESNETS.NORM FrozenBN does "
                "not normalise (set it to BN); MODEL.BACKBONE.FREEZE_AT 2 keeps the first stages "
                "random (set it to 0)"
            ],
        ),
        (["MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", "0"], []),
        (["MODEL.WEIGHTS", "some.pth"], []),
    ],
)
def test_random_weights_are_trained_or_it_is_said(words: list[str], warnings: list[str]) -> None:
    recipe = "configs/COCO-Detection/faster_rcnn_R_50_FPN_baseline.yaml"
    no_data = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()", "MODEL.DEVICE", "cpu"]
    cfg = load_config(recipe, [*no_data, *words])
    assert cfg.MODEL.WEIGHTS == words[1].replace("none", "")
    forget_warnings()
    warn_of_frozen_noise(cfg)
    assert kept_warnings() == warnings
    forget_warnings()


def test_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fam_det.training.detection.available_cores", lambda: 2)
    recipe = "configs/COCO-Detection/faster_rcnn_R_50_FPN_baseline.yaml"

    def workers(*words: str) -> int:
        return int(load_config(recipe, ["MODEL.DEVICE", "cpu", *words]).DATALOADER.NUM_WORKERS)

    assert (workers(), workers("DATALOADER.NUM_WORKERS", "6")) == (2, 6)  # 6: the user's own


def test_null_for_weights_is_none(tmp_path: Path) -> None:
    base = Path("configs/BloodCells/teacher_R_18.yaml").absolute()
    (tmp_path / "a.yaml").write_text(f"_BASE_: {base}\nMODEL: {{WEIGHTS: null}}\n")
    assert load_config(str(tmp_path / "a.yaml"), []).MODEL.WEIGHTS == ""
