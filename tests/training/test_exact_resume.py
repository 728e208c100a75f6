"""Detectors: a resumed run, and one with other workers, are the unbroken one again, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.training.detection import Trainer
from tests.modeling.small_detector import STUDENTS, THIN, small_config

from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng

OTHERS = {
    "small images": ["MODEL.TEACHER.INPUT_SCALE", "2.0"],
    "images without labels": [
        *("DATASETS.TRAIN", "('bccd_train', 'bccd_val')", "DATASETS.TRAIN_SHARES", "[1, 3]"),
        *("DATASETS.UNLABELLED", "['bccd_val']", "DATASETS.IGNORE_CROWD", "True"),
    ],
}


class Stop(Exception):
    pass


class Losses(HookBase):
    """Every loss of every iteration; ends the run after one, as a kill would."""

    def __init__(self, stop_after: int | None) -> None:
        self.by_iteration: dict[int, dict[str, float]] = {}
        self.stop_after = stop_after

    def after_step(self) -> None:
        latest = self.trainer.storage.latest()
        self.by_iteration[self.trainer.iter] = {x: latest[x][0] for x in latest if "loss" in x}
        if self.trainer.iter == self.stop_after:
            raise Stop


def opts(cells: str, folder: Path, student: str) -> list[str]:
    kind = student if student in STUDENTS else "GeneralizedRCNN"
    return [
        *("MODEL.STUDENT.META_ARCHITECTURE", kind, *STUDENTS.get(student, THIN)),
        *OTHERS.get(student, []),
        *("DATASETS.COCO", cells, "DATALOADER.NUM_WORKERS", "0"),
        *("INPUT.MIN_SIZE_TRAIN", "(48, 64)", "INPUT.MIN_SIZE_TEST", "64"),
        *("OUTPUT_DIR", str(folder), "SEED", "3", "SOLVER.BASE_LR", "0.001"),
        *("SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.IMS_PER_BATCH", "2"),
        *("SOLVER.MAX_ITER", "5", "SOLVER.STEPS", "(4,)"),
    ]


def train(opts: list[str], *, resume: bool = False, stop_after: int | None = None) -> Any:
    cfg = small_config(*opts)
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    seed_all_rng(cfg.SEED)
    run = Trainer(cfg)
    run.resume_or_load(resume=resume)
    losses = Losses(stop_after)
    run.register_hooks([losses])
    try:
        run.train()
    except Stop:
        pass
    return losses.by_iteration, {name: x.clone() for name, x in run.model.state_dict().items()}


def assert_same(first: Any, second: Any) -> None:
    assert first[0] == second[0]
    assert [name for name in first[1] if not torch.equal(first[1][name], second[1][name])] == []


# test_killed_runs.py resumes a RetinaNet. The thin student, and that of small images, read their
# teacher's heads in a basis.
@pytest.mark.parametrize(
    "student",
    ["GeneralizedRCNN", "thin", *OTHERS, pytest.param("RetinaNet", marks=pytest.mark.slow)],
)
def test_a_resumed_detector_is_the_unbroken_one(student: str, tmp_path: Path, cells: str) -> None:
    unbroken = train(opts(cells, tmp_path / "unbroken", student))
    broken = opts(cells, tmp_path / "broken", student)
    before, _ = train(broken, stop_after=2)  # the last checkpoint is of iteration 1
    after, weights = train(broken, resume=True)
    assert list(after) == [2, 3, 4]
    assert_same(unbroken, (before | after, weights))


def test_a_run_resumed_after_its_last_step_ends_with_the_same_checkpoint(
    tmp_path: Path, cells: str
) -> None:
    """Killed between the checkpoint of its last iteration and the final one."""
    options = [*opts(cells, tmp_path, "RetinaNet"), "SOLVER.MAX_ITER", "2"]
    train(options)
    final = tmp_path / "model_final.pth"
    unbroken = torch.load(final, weights_only=True)
    final.unlink()
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    train(options, resume=True)
    hooks = [x["trainer"]["hooks"] for x in (unbroken, torch.load(final, weights_only=True))]
    for state in hooks:  # the resumed run knows the last evaluation before it saves
        state.pop("BestCheckpointer")
    assert hooks[0] == hooks[1]
    assert hooks[0]["LossNormalizers"]["loss_normalizers"][0] > 0


def test_any_number_of_workers_trains_the_same_detector(tmp_path: Path, cells: str) -> None:
    none, two = (
        train(
            [*opts(cells, tmp_path / n, "GeneralizedRCNN"), "DATALOADER.NUM_WORKERS", n],
            stop_after=3,
        )
        for n in ("0", "2")
    )
    assert_same(none, two)
