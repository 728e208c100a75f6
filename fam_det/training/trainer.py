"""Detectron2's default trainer, whose resumed runs end as unbroken ones do."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training.checkpoints import BoundedCheckpointer
from fam_det.training.evaluation import Evaluation
from fam_det.training.loss_normalizer import LossNormalizers
from fam_det.training.metrics_hooks import ShortHistory, Writing
from fam_det.training.non_finite import AMPStepTrainer, StepTrainer
from fam_det.training.reproducibility import RunSeed, SeedEachIteration, make_deterministic
from fam_det.training.signals import StopOnSignal
from fam_det.training.sync_buffers import SameBuffers

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, defaults, hooks
from detectron2.utils import comm


class ResumableTrainer(DefaultTrainer):
    """A run that is resumed reaches what an unbroken one reaches, bit for bit on CPUs.

    Its loader gives batches by seed and iteration, from its ``start_iter`` on; each iteration is
    seeded; and its checkpoints hold the optimiser and the loss scaler, which Detectron2 v0.6 leaves
    out.
    """

    def __init__(self, cfg: CfgNode) -> None:
        if cfg.DETERMINISTIC:
            make_deterministic(cfg.SEED)
        with (
            replaced("create_ddp_model", ddp_on(cfg.MODEL.DEVICE)),
            replaced("DetectionCheckpointer", SafeCheckpointer),
            replaced("SimpleTrainer", StepTrainer),
            replaced("AMPTrainer", AMPStepTrainer),
        ):
            super().__init__(cfg)
        self._trainer.max_non_finite = cfg.SOLVER.MAX_NON_FINITE
        self._trainer.folder = cfg.OUTPUT_DIR
        run_seed = RunSeed(self._trainer.data_loader, comm.shared_random_seed())
        self.checkpointer.add_checkpointable("run_seed", run_seed)
        self.register_hooks([SeedEachIteration(run_seed)])

    def resume_or_load(self, resume: bool = True) -> None:
        """Load a checkpoint and move the loader to the iteration that comes next."""
        super().resume_or_load(resume)
        self._trainer.data_loader.start_iter = self.start_iter

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, with a bounded number of checkpoints, and an answer to signals."""
        solver, period, folder = self.cfg.SOLVER, self.cfg.TEST.EVAL_PERIOD, self.cfg.OUTPUT_DIR
        keep = BoundedCheckpointer(
            self.checkpointer, solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_KEEP
        )
        ours: list[HookBase | None] = [ShortHistory(), LossNormalizers(self.model)]
        for hook in super().build_hooks():
            if isinstance(hook, hooks.EvalHook):
                ours += [
                    keep if comm.is_main_process() else None,
                    StopOnSignal(self.checkpointer),
                    SameBuffers(period),
                    Evaluation(period, hook._func, folder),
                ]
            elif isinstance(hook, hooks.PeriodicWriter):
                ours.append(Writing(hook._writers, folder))
            elif not isinstance(hook, hooks.PeriodicCheckpointer):
                ours.append(hook)
        return ours

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks, and the state of the trainer inside this one."""
        state: dict[str, Any] = super().state_dict()
        state["_trainer"] = self._trainer.state_dict()  # the main branch's key
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's state; one of v0.6's own has no optimiser."""
        super().load_state_dict(state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])


@contextmanager
def replaced(name: str, by: Any) -> Iterator[None]:
    """Within this context, DefaultTrainer uses something of ours for what it has by that name."""
    of_detectron2 = getattr(defaults, name)
    setattr(defaults, name, by)
    try:
        yield
    finally:
        setattr(defaults, name, of_detectron2)


# Of DistributedDataParallel on CPUs: Detectron2 names a GPU for every process. With the second, the
# gradients of a resumed run's first iteration are summed in the order of all others.
ON_CPU = {"device_ids": None, "find_unused_parameters": True}


def ddp_on(device: str) -> Any:
    """What wraps a model in DDP; Detectron2's own on GPUs."""
    ddp = defaults.create_ddp_model
    return partial(ddp, **ON_CPU) if device == "cpu" else ddp
