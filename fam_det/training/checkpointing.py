"""When checkpoints are written, how many stay, and what a resumed run takes from them or not."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training.evaluation import at_iteration

from detectron2.engine import HookBase, hooks
from detectron2.solver import LRMultiplier
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class BoundedCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook; a resumed run counts the checkpoints from before as well.

    So many stay as ``keep`` says, beside the final one; 0 for all.
    """

    def __init__(self, checkpointer: SafeCheckpointer, period: int, keep: int) -> None:
        super().__init__(checkpointer, period, max_to_keep=keep or None)

    def before_train(self) -> None:
        """Finds the checkpoints of the run so far."""
        super().before_train()
        folder, first = Path(self.checkpointer.save_dir), self.trainer.start_iter
        prefix = self.file_prefix
        before = [
            file
            for file in sorted(folder.glob(f"{prefix}_[0-9]*.pth"))
            if int(file.stem.removeprefix(f"{prefix}_")) < first
        ]
        if self.max_to_keep is not None:
            for file in before[: -self.max_to_keep]:
                file.unlink()
            before = before[-self.max_to_keep :]
        self.recent_checkpoints = [str(file) for file in before]

    def after_train(self) -> None:
        """Writes the final checkpoint if a kill prevented that, or the training ended early."""
        final, trainer = f"{self.file_prefix}_final", self.trainer
        last = Path(self.checkpointer.get_checkpoint_file()).stem
        if trainer.iter >= trainer.max_iter and last != final:
            done = max(trainer.start_iter, trainer.max_iter)
            with at_iteration(trainer, done - 1):  # the iteration that its state will name
                self.checkpointer.save(final, iteration=done - 1)


def read_loss_normalizer(model: nn.Module) -> float | None:
    """Returns the running count of positive anchors that RetinaNet and FCOS divide their losses by.

    It is this process's; None before the first batch, and for other detectors.
    """
    detector = _dense_detector(model)
    return None if detector is None else vars(detector).get("loss_normalizer")


def set_loss_normalizer(model: nn.Module, value: float | None) -> None:
    """Sets that count; None for before the first batch."""
    detector = _dense_detector(model)
    if detector is None:
        return
    vars(detector).pop("loss_normalizer", None)
    if value is not None:
        detector.loss_normalizer = value


def _dense_detector(model: nn.Module) -> Any | None:
    """Returns the detector in a model, distilled or in DDP or as it is, if it has such a count."""
    model = getattr(model, "module", model)
    detector = getattr(model, "student", model)
    return detector if hasattr(detector, "_ema_update") else None


class LossNormalizers(HookBase):
    """Keeps the running count of positive anchors of each process in checkpoints.

    Detectron2 has it in an attribute alone and starts it again in a resumed run. Put this hook
    before the checkpointing one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: list[float | None] = []

    def after_step(self) -> None:
        """Tells the first process, which writes checkpoints."""
        if _dense_detector(self.model) is not None:
            self.values = comm.all_gather(read_loss_normalizer(self.model))

    def state_dict(self) -> dict[str, Any]:
        """Returns the count of each process; nothing for other detectors."""
        return {"loss_normalizers": self.values} if self.values else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from this process's count."""
        self.values = state["loss_normalizers"]
        set_loss_normalizer(self.model, self.values[comm.get_rank() % len(self.values)])


@contextlib.contextmanager
def kept_rates(optimizer: Optimizer, scheduler: Any) -> Iterator[None]:
    """Keeps the optimiser's options that a config has from those in a state loaded within this.

    The scheduler's state is loaded before. One of another kind than Detectron2's, whose rates are
    no function of the iteration, resumes from the state's.
    """
    names = ("lr", "initial_lr", "weight_decay", "momentum")
    before = [{name: x[name] for name in names if name in x} for x in optimizer.param_groups]
    yield
    if not isinstance(scheduler, LRMultiplier | ParamScheduler):
        return
    for group, options in zip(optimizer.param_groups, before, strict=True):
        options = {"initial_lr": options["lr"]} | options
        for name in options.keys() & group.keys() - {"lr"}:
            if group[name] != options[name]:
                logger.info("%s: %g in the checkpoint, now %g", name, group[name], options[name])
        group.update(options)
    if isinstance(scheduler, LRMultiplier):  # a LazyConfig's is made of the groups later
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate
