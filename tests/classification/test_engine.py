"""Training from end to end on random images: files, resume, evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.config import get_cfg, resolve_schedule
from classification.data import Batch
from classification.engine import AccuracyEvaluator, Trainer, load_config
from fam_det.files.metrics_file import read_metrics

from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage


class Stop(Exception):
    pass


class StopAfter(HookBase):
    """Ends a run as a kill would: nothing is saved."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self.iteration:
            raise Stop


def weights(folder: Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["model"]


def total_losses(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}


def train(cfg: Any, folder: Path, *, resume: bool = False, stop_after: int | None = None) -> None:
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(folder)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    if stop_after is not None:
        trainer.register_hooks([StopAfter(stop_after)])
    try:
        trainer.train()
    except Stop:
        return


def accuracies(folder: Path) -> dict[float, float]:
    lines = read_metrics(folder / "metrics.json")
    return {line["iteration"]: line["accuracy/top1"] for line in lines if "accuracy/top1" in line}


@pytest.mark.parametrize("distiller", ["KnowledgeReviewDistiller", ""])
def test_resumed_run_equals_an_unbroken_one(make_cfg: Any, tmp_path: Path, distiller: str) -> None:
    cfg = make_cfg("MODEL.DISTILLER.NAME", distiller)
    train(cfg, tmp_path / "unbroken")
    train(cfg, tmp_path / "broken", stop_after=4)  # the last checkpoint is of iteration 2
    train(cfg, tmp_path / "broken", resume=True)
    for name in ("model_final.pth", "model_best.pth"):
        unbroken, resumed = weights(tmp_path / "unbroken", name), weights(tmp_path / "broken", name)
        assert list(unbroken) == list(resumed)
        assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert accuracies(tmp_path / "broken") == accuracies(tmp_path / "unbroken")
    assert set(accuracies(tmp_path / "broken")) == {1, 3, 6}


def test_unseeded_run_continues_with_its_images(make_cfg: Any, tmp_path: Path) -> None:
    cfg = make_cfg("SEED", -1)
    cfg.OUTPUT_DIR = str(tmp_path)
    first = Trainer(cfg)
    first.checkpointer.save("model_0000000")
    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    loaders = [trainer._trainer.data_loader for trainer in (first, again)]
    one, other = (next(iter(loader)) for loader in loaders)
    assert not torch.equal(one.images, next(iter(Trainer(cfg)._trainer.data_loader)).images)
    loaders[1].start_iter = 0
    assert torch.equal(one.images, next(iter(loaders[1])).images)
    assert not torch.equal(one.images, other.images)


def test_files_of_a_run_and_its_best_value(make_cfg: Any, tmp_path: Path) -> None:
    train(make_cfg(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    events = {name for name in names if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    # CHECKPOINT_KEEP 1: of iterations 2 and 5 the last
    assert names - events == {
        "last_checkpoint",
        "metrics.json",
        "model_0000005.pth",
        "model_best.pth",
        "model_final.pth",
    }
    metrics = (tmp_path / "metrics.json").read_text()
    for key in ("accuracy/top1", "accuracy/top5", "loss_ce", "loss_distill", "eta_seconds"):
        assert f'"{key}"' in metrics

    # a run that is resumed knows the best value
    trainer = Trainer(make_cfg())
    trainer.resume_or_load(resume=True)
    best = next(hook for hook in trainer._hooks if hasattr(hook, "best_metric"))
    with EventStorage(trainer.start_iter) as trainer.storage:
        best.before_train()
    assert best.best_metric == max(accuracies(tmp_path).values())


def test_best_checkpoint_is_not_what_a_run_resumes_from(make_cfg: Any, tmp_path: Path) -> None:
    train(make_cfg("SOLVER.CHECKPOINT_PERIOD", 100), tmp_path, stop_after=4)
    assert (tmp_path / "model_best.pth").exists()
    assert not (tmp_path / "last_checkpoint").exists()


def test_accuracy_by_hand() -> None:
    logits = torch.zeros(3, 10)
    logits[0, 4] = 1.0  # label 4: the highest
    logits[1] = torch.arange(10.0)  # label 6: the fourth
    logits[2] = torch.arange(10.0)  # label 4: the sixth
    evaluator = AccuracyEvaluator()
    evaluator.reset()
    batch = Batch(torch.zeros(3, 3, 2, 2), torch.tensor([4, 6, 4]), torch.arange(3))
    evaluator.process(batch, logits)
    assert evaluator.evaluate() == {
        "accuracy": {"top1": pytest.approx(100 / 3), "top5": pytest.approx(200 / 3)}
    }


def test_schedule_in_iterations() -> None:
    cfg = get_cfg()
    resolve_schedule(cfg, 50_000)  # 781.25 iterations an epoch
    assert cfg.SOLVER.MAX_ITER == 187_500
    assert cfg.SOLVER.STEPS == (117_188, 140_625, 164_062)
    assert cfg.TEST.EVAL_PERIOD == 781


def test_scaled_schedule() -> None:
    cfg = get_cfg()
    cfg.SOLVER.SCHEDULE_SCALE = 0.1
    resolve_schedule(cfg, 50_000)
    assert cfg.SOLVER.MAX_ITER == 18_750
    assert cfg.SOLVER.STEPS == (11_719, 14_062, 16_406)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["DATASETS.NAME", "digits"],
            "MODEL.NUM_CLASSES: got 100, but DATASETS.NAME 'digits' has 10",
        ),
        (["SOLVER.EPOCHS", "-1"], "SOLVER.EPOCHS: got -1, expected 0 or more"),
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH: got 0, expected more than 0"),
        (["TEST.EVAL_EPOCHS", "-1"], "TEST.EVAL_EPOCHS: got -1, expected 0 or more"),
        (["SOLVER.SCHEDULE_SCALE", "0.0"], "SOLVER.SCHEDULE_SCALE: got 0.0, expected more than 0"),
    ],
)
def test_wrong_values_name_the_key(tmp_path: Path, opts: list[str], message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("MODEL: {DEVICE: cpu}\nDATASETS: {NAME: fake}\n")
    with pytest.raises(ValueError, match=message):
        load_config(str(file), opts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_mixed_precision_trains(make_cfg: Any, tmp_path: Path) -> None:
    train(make_cfg("MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True), tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())
