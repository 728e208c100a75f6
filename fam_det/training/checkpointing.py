"""Writes and deletes checkpoints, and restores state that Detectron2 does not."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer

from fam_det.files.checkpointer import NUMBERED, SafeCheckpointer
from fam_det.training.evaluation import at_iteration

from detectron2.engine import HookBase, hooks
from detectron2.solver import LRMultiplier
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class BoundedCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook, which in a resumed run also deletes checkpoints written before it.

    The last ``keep`` checkpoints are kept besides the final one; 0 keeps all.
    """

    def __init__(self, checkpointer: SafeCheckpointer, period: int, keep: int) -> None:
        super().__init__(checkpointer, period, max_to_keep=keep or None)

    def before_train(self) -> None:
        """Finds the checkpoints of the run so far."""
        super().before_train()
        end = f"model_{self.trainer.start_iter:07d}.pth"
        folder = Path(self.checkpointer.save_dir)
        checkpoints = [file for file in sorted(folder.glob(NUMBERED)) if file.name < end]
        if self.max_to_keep is not None:
            for file in checkpoints[: -self.max_to_keep]:
                file.unlink()
            checkpoints = checkpoints[-self.max_to_keep :]
        self.recent_checkpoints = [str(file) for file in checkpoints]  # Detectron2's name

    def after_train(self) -> None:
        """Writes the final checkpoint if a kill prevented that, or the training ended early."""
        final, trainer = f"{self.file_prefix}_final", self.trainer
        last = Path(self.checkpointer.get_checkpoint_file()).stem
        if trainer.iter >= trainer.max_iter and last != final:
            done = max(trainer.start_iter, trainer.max_iter)
            with at_iteration(trainer, done - 1):  # its state is that after this iteration
                self.checkpointer.save(final, iteration=done - 1)


def read_loss_normalizer(model: nn.Module) -> float | None:
    """Returns this process's running mean of positive anchors, which dense detectors divide by.

    RetinaNet and FCOS have one. None before the first batch, and for other detectors.
    """
    detector = _dense_detector(model)
    return None if detector is None else vars(detector).get("loss_normalizer")


def set_loss_normalizer(model: nn.Module, value: float | None) -> None:
    """Sets that mean; None deletes it, as before the first batch."""
    detector = _dense_detector(model)
    if detector is None:
        return
    vars(detector).pop("loss_normalizer", None)
    if value is not None:
        detector.loss_normalizer = value


def _dense_detector(model: nn.Module) -> Any | None:
    """Returns the dense detector inside DDP and a distillation; None for other detectors."""
    model = getattr(model, "module", model)
    detector = getattr(model, "student", model)
    return detector if hasattr(detector, "_ema_update") else None


class LossNormalizers(HookBase):
    """Saves each process's running mean of positive anchors in checkpoints.

    In Detectron2 it is a plain attribute, which a resumed run would initialise again. Register this
    hook before the checkpointing one, and after PreciseBN, whose batches change the mean.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: list[float | None] = []

    def after_step(self) -> None:
        """Gathers the means for the first process, which writes checkpoints."""
        if _dense_detector(self.model) is not None:
            self.values = comm.all_gather(read_loss_normalizer(self.model))

    def state_dict(self) -> dict[str, Any]:
        """Returns the mean of each process; empty for other detectors."""
        return {"loss_normalizers": self.values} if self.values else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores this process's mean."""
        self.values = state["loss_normalizers"]
        set_loss_normalizer(self.model, self.values[comm.get_rank() % len(self.values)])


@contextlib.contextmanager
def config_options(optimizer: Optimizer, scheduler: Any) -> Iterator[None]:
    """Restores the config's options of the optimiser after a state is loaded in this context.

    Load the scheduler's state before. With a scheduler of another library, whose rates are no
    function of the iteration, the loaded options stay.
    """
    names = ("lr", "initial_lr", "weight_decay", "momentum")
    configured = [{name: x[name] for name in names if name in x} for x in optimizer.param_groups]
    yield
    if not isinstance(scheduler, LRMultiplier | ParamScheduler):
        return
    for group, options in zip(optimizer.param_groups, configured, strict=True):
        options = {"initial_lr": options["lr"]} | options
        for name in options.keys() & group.keys() - {"lr"}:
            if group[name] != options[name]:
                logger.info("%s: %g in the checkpoint, now %g", name, group[name], options[name])
        group.update(options)
    if isinstance(scheduler, LRMultiplier):  # a ParamScheduler becomes one later, in LRScheduler
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate
