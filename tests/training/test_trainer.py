"""The trainer: what it loads before the first step, and in which order."""

from pathlib import Path
from typing import Any

import torch

from fam_det.config import default_config
from fam_det.training.trainer import ResumableTrainer
from tests.training.small_training import Batches, Model

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
