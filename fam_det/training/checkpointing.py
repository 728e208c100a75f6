"""When checkpoints are written, how many of them stay, and a count that Detectron2 leaves out."""

from pathlib import Path
from typing import Any

from torch import nn

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.training.evaluation import at_iteration

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm


class BoundedCheckpointer(hooks.PeriodicCheckpointer):
    """Detectron2's hook; a resumed run counts the checkpoints from before as well.

    So many stay as ``keep`` says, beside the final one; 0 for all.
    """

    def __init__(self, checkpointer: SafeCheckpointer, period: int, keep: int) -> None:
        super().__init__(checkpointer, period, max_to_keep=keep or None)

    def before_train(self) -> None:
        """Finds the checkpoints of the run so far; makes up for what a kill prevented."""
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
        if first >= self.max_iter and not (folder / f"{prefix}_final.pth").exists():
            with at_iteration(self.trainer, first - 1):  # the iteration that its state will name
                self.checkpointer.save(f"{prefix}_final", iteration=first - 1)


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
