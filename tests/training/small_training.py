"""A training of milliseconds an iteration: a linear map behind a BatchNorm."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fam_det.config import default_config
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training.checkpointing import BoundedCheckpointer
from fam_det.training.detection import Trainer
from fam_det.training.non_finite import StepTrainer
from fam_det.training.trainer import unwrapped

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import JSONWriter


class Model(nn.Module):
    """A loss of a linear map behind a BatchNorm; NaN for an image that is NaN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(2)
        self.linear = nn.Linear(2, 1)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = torch.stack([item["image"] for item in batch])
        return {"loss": self.linear(self.norm(images)).square().mean()}


class Batches:
    """Batch k is a function of k; those of ``broken`` hold a NaN."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        self.broken = broken
        self.start_iter = self.seed = 0

    def __iter__(self) -> Any:
        number = self.start_iter
        while True:
            images = torch.randn(4, 2, generator=torch.Generator().manual_seed(number))
            if number in self.broken:
                images[1, 0] = torch.nan
            yield [{"image": x, "file_name": f"{number}_{i}.png"} for i, x in enumerate(images)]
            number += 1


def trainer(
    folder: Path,
    broken: tuple[int, ...] = (),
    max_non_finite: int = 0,
    model: nn.Module | None = None,
) -> StepTrainer:
    folder.mkdir(exist_ok=True)
    model = model or Model()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = StepTrainer(model, Batches(broken), optimiser)
    run.folder, run.max_non_finite = str(folder), max_non_finite
    return run


def with_checkpoints(
    folder: Path, *hooks: Callable[[SafeCheckpointer], HookBase]
) -> tuple[StepTrainer, SafeCheckpointer]:
    """A training and its checkpointer, with hooks that take it."""
    run = trainer(folder)
    checkpointer = SafeCheckpointer(run.model, str(folder), trainer=run)
    run.register_hooks([hook(checkpointer) for hook in hooks])
    return run, checkpointer


def every_second(keep: int) -> Callable[[SafeCheckpointer], HookBase]:
    """Saves after every second iteration."""
    return lambda checkpointer: BoundedCheckpointer(checkpointer, 2, keep)


class SmallTrainer(Trainer):
    """The detectors' trainer of this model; its AP is looked up by how many iterations it saw."""

    scores: ClassVar[dict[int, float]] = {}

    @classmethod
    def build_model(cls, cfg: CfgNode) -> Model:
        return Model()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Batches:
        return Batches()

    def build_writers(self) -> list[Any]:
        return [JSONWriter(f"{self.options.folder}/metrics.json")]

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        done = int(unwrapped(model).norm.num_batches_tracked)
        ap = {"bbox": {"AP": cls.scores.get(done, 0.0), "APs": 50.0 - done}}
        return {name: {"bbox": {"AP": -done}} for name in cfg.DATASETS.TEST} | {"second": ap}


def small_run(
    folder: Path,
    *opts: Any,
    scores: dict[int, float] | None = None,
    trainer: type[SmallTrainer] = SmallTrainer,
) -> SmallTrainer:
    """A run of 14 iterations, resumed where it can be, evaluated after each two."""
    cfg = default_config()
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.SEED = "cpu", str(folder), 0
    cfg.DATASETS.TEST = ("second", "first")
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = 14, (), 0
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 3, 2
    cfg.merge_from_list(list(opts))
    folder.mkdir(exist_ok=True)
    SmallTrainer.scores = scores or {}
    run = trainer(cfg)
    run.resume_or_load(resume=True)
    return run
