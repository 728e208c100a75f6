"""Detectron2's trainer with exact resume: a resumed run ends as an uninterrupted one."""

import argparse
import contextlib
import logging
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fam_det.data.audit import kept_warnings
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.files.metrics_file import LOG_PERIOD
from fam_det.training.best import MAIN_METRICS, BestCheckpointer, EarlyStop, read_patience
from fam_det.training.checkpointing import BoundedCheckpointer, LossNormalizers, config_options
from fam_det.training.evaluation import Evaluation
from fam_det.training.metrics import MetricsWriter, ShortHistory, TeacherShare, UnweightedLoss
from fam_det.training.non_finite import AMPStepTrainer, StepTrainer
from fam_det.training.reproducibility import RunSeed, SeedEachIteration, make_deterministic
from fam_det.training.signals import StopOnSignal

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

logger = logging.getLogger(__name__)


class TrainingOptions(NamedTuple):
    """Options of a training, which have other names in YAML and LazyConfig."""

    folder: str
    weights: str
    max_iter: int
    mixed_precision: bool
    max_non_finite: int
    eval_period: int
    checkpoint_period: int
    checkpoint_keep: int  # 0 for all
    patience: int  # evaluations; 0 for no early stopping
    ddp: dict[str, Any]
    log_period: int = LOG_PERIOD
    deterministic_seed: int | None = None


class ResumableTrainer(DefaultTrainer):
    """Detectron2's default trainer, in which a resumed run equals an uninterrupted one.

    On CPUs they are equal to the bit. The loader's batches depend on seed and iteration alone, each
    iteration is seeded, and checkpoints hold the optimiser and the gradient scaler, which
    Detectron2 v0.6 leaves out.
    """

    def __init__(self, cfg: Any) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer's cannot set the loader, step and checkpointer
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        if isinstance(cfg, CfgNode):
            cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.options = options = self.read_options(cfg)
        self.start_iter, self.max_iter = 0, options.max_iter
        self._last_eval_results: dict[str, Any] = {}  # Detectron2's name
        if options.deterministic_seed is not None:
            make_deterministic(options.deterministic_seed)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, **options.ddp)
        step_trainer = AMPStepTrainer if options.mixed_precision else StepTrainer
        self._trainer = step_trainer(model, loader, optimizer)
        self._trainer.folder = options.folder
        self._trainer.max_non_finite = options.max_non_finite
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SafeCheckpointer(
            model,
            options.folder,
            trainer=weakref.proxy(self),
            run_seed=RunSeed(loader, comm.shared_random_seed()),
        )
        self.register_hooks(self.build_hooks())

    @classmethod
    def read_options(cls, cfg: CfgNode) -> TrainingOptions:
        """Returns the options of a config in YAML."""
        return TrainingOptions(
            folder=cfg.OUTPUT_DIR,
            weights=cfg.MODEL.WEIGHTS,
            max_iter=cfg.SOLVER.MAX_ITER,
            mixed_precision=cfg.SOLVER.AMP.ENABLED,
            max_non_finite=cfg.SOLVER.MAX_NON_FINITE,
            eval_period=cfg.TEST.EVAL_PERIOD,
            checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
            checkpoint_keep=cfg.SOLVER.CHECKPOINT_KEEP,
            patience=read_patience(
                cfg.SOLVER.PATIENCE, cfg.TEST.EVAL_PERIOD, ("SOLVER.PATIENCE", "TEST.EVAL_PERIOD")
            ),
            ddp=ddp_options(cfg.MODEL.DEVICE, broadcast_buffers=False),
            deterministic_seed=cfg.SEED if cfg.DETERMINISTIC else None,
        )

    def build_hooks(self) -> list[HookBase | None]:
        """Returns the hooks in their order, ``None`` for those of the first process only."""
        options, is_main = self.options, comm.is_main_process()
        checkpointer, writer = None, None
        if is_main:
            checkpointer = BoundedCheckpointer(
                self.checkpointer, options.checkpoint_period, options.checkpoint_keep
            )
            writer = MetricsWriter(self.build_writers(), options.folder, options.log_period)
        self.best = BestCheckpointer(
            options.eval_period, self.checkpointer, self.main_metrics(self.cfg), options.patience
        )
        return [
            ShortHistory(),
            hooks.IterationTimer(),
            UnweightedLoss(),
            TeacherShare(),
            hooks.LRScheduler(),
            *self.hooks_before_checkpoint(),
            LossNormalizers(self.model),
            checkpointer,
            StopOnSignal(self.checkpointer),
            Evaluation(options.eval_period, self._evaluate, options.folder),
            self.best,
            writer,
            SeedEachIteration(self.checkpointer.checkpointables["run_seed"]),
        ]

    def hooks_before_checkpoint(self) -> list[HookBase]:
        """Returns hooks that change the weights before they are saved: PreciseBN, if enabled."""
        if not self.cfg.TEST.PRECISE_BN.ENABLED:
            return []
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # the training's loader has its workers already
        loader, iterations = self.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
        return [hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, iterations)]

    def build_writers(self) -> list[Any]:
        """Returns Detectron2's writers of metrics."""
        return list(default_writers(self.options.folder, self.options.max_iter))

    @classmethod
    def main_metrics(cls, cfg: Any) -> Sequence[str]:
        """Returns metrics; the first that an evaluation has chooses the best checkpoint."""
        return MAIN_METRICS

    def _evaluate(self) -> Any:
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True) -> None:
        """Loads the run's last checkpoint or the initial weights, then the teacher."""
        self.checkpointer.resume_or_load(self.options.weights, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1
        self.data_loader.start_iter = self.start_iter
        distilled = unwrapped(self.model)
        if hasattr(distilled, "load_teacher"):
            distilled.load_teacher(self.data_loader)

    def train(self) -> dict[str, Any]:
        """Trains; returns the last results of the evaluation."""
        max_iter = self.max_iter  # early stopping lowers it
        for line in kept_warnings():  # again: the first time was hundreds of lines ago
            logger.warning("%s", line)
        with contextlib.suppress(EarlyStop):
            TrainerBase.train(self, self.start_iter, max_iter)
        for line in self.best.summary(max_iter):
            logger.info(line)
        if isinstance(self.cfg, CfgNode) and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def before_step(self) -> None:
        """Leaves the loop if the training is stopped early."""
        if self.iter >= self.max_iter:
            raise EarlyStop
        super().before_step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the iteration, and the states of the hooks and the step trainer."""
        state: dict[str, Any] = TrainerBase.state_dict(self)
        return {**state, "_trainer": self._trainer.state_dict()}  # the main branch's key

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a checkpoint; one that v0.6's trainer wrote has no optimiser.

        Learning rate, weight decay and momentum are those of the config, which may have changed.
        """
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            with config_options(self.optimizer, self.scheduler):
                self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def prepare(cls, cfg: Any, args: argparse.Namespace) -> Callable[[], Any]:
        """Returns a function that trains or, with ``--eval-only``, evaluates; loads the weights."""
        if not args.eval_only:
            trainer = cls(cfg)
            trainer.resume_or_load(resume=args.resume)
            return trainer.train
        options, model = cls.read_options(cfg), cls.build_tested_model(cfg)
        needed = cls.parts_to_load(cfg, model)
        checkpointer = SafeCheckpointer(model, options.folder, needed=needed)
        checkpointer.resume_or_load(options.weights, resume=args.resume)
        return partial(cls.evaluate, cfg, model)

    @classmethod
    def build_tested_model(cls, cfg: Any) -> nn.Module:
        """Builds the model to evaluate."""
        model: nn.Module = cls.build_model(cfg)
        return model

    @classmethod
    def parts_to_load(cls, cfg: Any, model: nn.Module) -> Sequence[str]:
        """Returns the parts of a model for which an evaluation needs weights: no distiller."""
        return [name for name, _ in model.named_children() if name != "distiller"]

    @classmethod
    def evaluate(cls, cfg: Any, model: nn.Module) -> dict[str, Any]:
        """Evaluates a model, and compares with ``TEST.EXPECTED_RESULTS``."""
        results: dict[str, Any] = cls.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results


def unwrapped(model: Any) -> Any:
    """Returns the model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def ddp_options(device: str, **options: Any) -> dict[str, Any]:
    """Returns options of DistributedDataParallel, with those that CPUs need."""
    if device != "cpu":
        return options
    # By default Detectron2 passes a GPU. And without find_unused_parameters the first iteration of
    # a process sums gradients in another order than the rest: a resumed run would differ.
    return {**options, "device_ids": None, "find_unused_parameters": True}


def check_device(
    device: str,
    mixed_precision: bool,
    keys: Sequence[str] = ("MODEL.DEVICE", "SOLVER.AMP.ENABLED"),
    sign: str = " ",
) -> None:
    """Raises a ValueError for a missing GPU, or for mixed precision on a CPU.

    ``keys`` are the names of the two options, and ``sign`` separates a key from its value on the
    command line.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"{keys[0]}: got {device!r}, but PyTorch sees no GPU; "
            f"to run on the CPU add: {keys[0]}{sign}cpu"
        )
    if device == "cpu" and mixed_precision:
        raise ValueError(
            f"{keys[1]}: got True on the CPU, but Detectron2 trains in mixed precision on GPUs "
            f"only; add: {keys[1]}{sign}False"
        )
