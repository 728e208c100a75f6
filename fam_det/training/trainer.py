"""Detectron2's trainers, put together so that a resumed run ends as an unbroken one does."""

import argparse
import logging
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling.metrics import LOG_PERIOD
from fam_det.modeling.student_wrapper import parts_of_student
from fam_det.training.checkpointing import BoundedCheckpointer, LossNormalizers
from fam_det.training.evaluation import Evaluation
from fam_det.training.metrics import MetricsWriter, ShortHistory
from fam_det.training.non_finite import AMPStepTrainer, StepTrainer
from fam_det.training.reproducibility import RunSeed, SeedEachIteration, make_deterministic
from fam_det.training.signals import StopOnSignal

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

# Of DistributedDataParallel on CPUs: Detectron2 names a GPU for every process. With the second, the
# gradients of a resumed run's first iteration are summed in the order of all others.
DDP_ON_CPU = {"device_ids": None, "find_unused_parameters": True}


class TrainingOptions(NamedTuple):
    """Options of a training, which YAML and LazyConfig call by other names."""

    folder: str
    max_iter: int
    mixed_precision: bool
    max_non_finite: int
    eval_period: int
    checkpoint_period: int
    checkpoint_keep: int  # 0 for all
    log_period: int = LOG_PERIOD


def build_trainer(
    options: TrainingOptions,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    outer: TrainerBase | None = None,
) -> tuple[StepTrainer, SafeCheckpointer]:
    """Returns the trainer of a step, and the checkpointer of the run.

    Args:
        options: of the training.
        model: to train, in DDP where there are more processes.
        optimizer: of its parameters.
        loader: batches without end, by seed and iteration from its ``start_iter`` on.
        outer: the trainer that calls this one and has the hooks; by default this one has them.
    """
    kind = AMPStepTrainer if options.mixed_precision else StepTrainer
    trainer = kind(model, loader, optimizer)
    trainer.folder, trainer.max_non_finite = options.folder, options.max_non_finite
    checkpointer = SafeCheckpointer(
        model,
        options.folder,
        trainer=weakref.proxy(outer or trainer),
        run_seed=RunSeed(loader, comm.shared_random_seed()),
    )
    return trainer, checkpointer


def build_hooks(
    options: TrainingOptions,
    checkpointer: SafeCheckpointer,
    scheduler: Any,
    evaluate: Callable[[], Any],
    writers: Sequence[Any],
    before_checkpoint: Sequence[HookBase] = (),
) -> list[HookBase | None]:
    """Returns the hooks of a training in their order, the writers' second to last.

    Args:
        options: of the training.
        checkpointer: from ``build_trainer``.
        scheduler: of the learning rate.
        evaluate: gives the results of an evaluation.
        writers: of metrics, Detectron2's.
        before_checkpoint: more hooks, whose effects the checkpoints have.
    """
    period, folder = options.eval_period, options.folder
    keep = (checkpointer, options.checkpoint_period, options.checkpoint_keep)
    is_main = comm.is_main_process()
    return [
        ShortHistory(),
        LossNormalizers(checkpointer.model),
        hooks.IterationTimer(),
        hooks.LRScheduler(scheduler=scheduler),
        *before_checkpoint,
        BoundedCheckpointer(*keep) if is_main else None,
        StopOnSignal(checkpointer),
        Evaluation(period, evaluate, folder),
        MetricsWriter(list(writers), folder, options.log_period) if is_main else None,
        SeedEachIteration(checkpointer.checkpointables["run_seed"]),
    ]


def resume_or_load(
    trainer: TrainerBase, checkpointer: SafeCheckpointer, weights: str, resume: bool
) -> int:
    """Loads the last checkpoint of the run, or weights to start from, and then the teacher.

    Returns:
        The iteration that comes next; the loader starts there.
    """
    checkpointer.resume_or_load(weights, resume=resume)
    start: int = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.data_loader.start_iter = start
    load_teacher(trainer.model)
    return start


def load_teacher(model: nn.Module) -> None:
    """Lets a distilled model load its teacher, once its own weights are there."""
    distilled = unwrapped(model)
    if hasattr(distilled, "load_teacher"):
        distilled.load_teacher()


def unwrapped(model: Any) -> Any:
    """Returns the model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def wrap_in_ddp(model: nn.Module, device: str, **options: Any) -> Any:
    """Returns the model in DistributedDataParallel where there is more than one process."""
    return create_ddp_model(model, **{**options, **(DDP_ON_CPU if device == "cpu" else {})})


def load_model(model: Any, folder: str, weights: str, *, resume: bool, needed: bool = True) -> Any:
    """Loads weights, or the last checkpoint of a run, for an evaluation.

    Args:
        model: to load into.
        folder: of the run.
        weights: where the run is not resumed.
        resume: take the last checkpoint of the run if there is one.
        needed: whether weights that lack a part of the student are an error.
    """
    parts = parts_of_student(model) if needed else ()
    checkpointer = SafeCheckpointer(model, folder, needed=parts)
    checkpointer.resume_or_load(weights, resume=resume)
    return model


def check_device(
    device: str, mixed_precision: bool, keys: Sequence[str], assign: str = " "
) -> None:
    """Raises a ValueError for a device that is not there or cannot do what it should.

    Args:
        device: to train on.
        mixed_precision: whether to.
        keys: of these two in the config.
        assign: what stands between a key and its value on the command line.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"{keys[0]}: got {device!r}, but PyTorch sees no GPU; "
            f"to run on the CPU add: {keys[0]}{assign}cpu"
        )
    if device == "cpu" and mixed_precision:
        raise ValueError(
            f"{keys[1]}: got True on the CPU, but Detectron2 trains in mixed precision on GPUs "
            f"only; add: {keys[1]}{assign}False"
        )


class ResumableTrainer(DefaultTrainer):
    """Detectron2's default trainer; a resumed run reaches what an unbroken one does.

    On CPUs that is bit for bit. Its loader gives batches by seed and iteration, from its
    ``start_iter`` on; each iteration is seeded; and its checkpoints hold the optimiser and the loss
    scaler, which Detectron2 v0.6 leaves out.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # the rest of DefaultTrainer's is done here
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        if cfg.DETERMINISTIC:
            make_deterministic(cfg.SEED)
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        model = wrap_in_ddp(model, cfg.MODEL.DEVICE, broadcast_buffers=False)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.options = TrainingOptions(
            folder=cfg.OUTPUT_DIR,
            max_iter=cfg.SOLVER.MAX_ITER,
            mixed_precision=cfg.SOLVER.AMP.ENABLED,
            max_non_finite=cfg.SOLVER.MAX_NON_FINITE,
            eval_period=cfg.TEST.EVAL_PERIOD,
            checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
            checkpoint_keep=cfg.SOLVER.CHECKPOINT_KEEP,
        )
        self._trainer, self.checkpointer = build_trainer(
            self.options, model, optimizer, loader, outer=self
        )
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Returns the hooks; Detectron2's PreciseBN is one if the config asks for it."""
        precise_bn = [self._precise_bn()] if self.cfg.TEST.PRECISE_BN.ENABLED else []
        writers = self.build_writers() if comm.is_main_process() else []
        parts = self.options, self.checkpointer, self.scheduler
        return build_hooks(*parts, self._test_and_keep, writers, precise_bn)

    def _precise_bn(self) -> HookBase:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a second loader beside the training's
        return hooks.PreciseBN(
            cfg.TEST.EVAL_PERIOD,
            self.model,
            self.build_train_loader(cfg),
            cfg.TEST.PRECISE_BN.NUM_ITER,
        )

    def _test_and_keep(self) -> Any:
        """Evaluates for the hook; DefaultTrainer looks for the results under this name."""
        self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def resume_or_load(self, resume: bool = True) -> None:
        """Loads the run's last checkpoint, or ``MODEL.WEIGHTS``, and then the teacher."""
        self.start_iter = resume_or_load(self, self.checkpointer, self.cfg.MODEL.WEIGHTS, resume)

    def state_dict(self) -> dict[str, Any]:
        """Returns iteration, hooks, and the state of the trainer inside this one."""
        state: dict[str, Any] = TrainerBase.state_dict(self)
        return {**state, "_trainer": self._trainer.state_dict()}  # the main branch's key

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a checkpoint's state; one of v0.6's own has no optimiser."""
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def evaluate(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Evaluates a model; compares with ``TEST.EXPECTED_RESULTS`` if there are any."""
        results: dict[str, Any] = cls.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    @classmethod
    def prepare(cls, cfg: CfgNode, args: argparse.Namespace) -> Callable[[], Any]:
        """Returns a training or, with ``--eval-only``, an evaluation, its weights loaded."""
        if not args.eval_only:
            trainer = cls(cfg)
            trainer.resume_or_load(resume=args.resume)
            return trainer.train
        weights = cfg.MODEL.WEIGHTS
        # a classifier's MODEL.STUDENT.WEIGHTS may have all that an evaluation needs
        needed = bool(weights) or "WEIGHTS" not in cfg.MODEL.STUDENT
        model = load_model(
            cls.build_model(cfg), cfg.OUTPUT_DIR, weights, resume=args.resume, needed=needed
        )
        return partial(cls.evaluate, cfg, model)
