"""The running count that RetinaNet and FCOS divide their losses by, kept in checkpoints."""

from typing import Any

from torch import nn

from detectron2.engine import HookBase
from detectron2.utils import comm

ATTRIBUTE = "loss_normalizer"  # of Detectron2's DenseDetector, once it has seen a batch
METHOD = "_ema_update"  # what sets it


def dense_detector(model: nn.Module) -> Any | None:
    """The detector in a model, distilled or in DDP or as it is, that has such a count, or None."""
    model = getattr(model, "module", model)
    detector = getattr(model, "student", model)
    return detector if hasattr(detector, METHOD) else None


def read_normalizer(model: nn.Module) -> float | None:
    """This process's count; None before the first batch, and where there is none."""
    return vars(dense_detector(model) or object).get(ATTRIBUTE)


def set_normalizer(model: nn.Module, value: float | None) -> None:
    """Put a count back; None for before the first batch."""
    detector = dense_detector(model)
    if detector is not None:
        vars(detector).pop(ATTRIBUTE, None)
        vars(detector).update({} if value is None else {ATTRIBUTE: value})


class LossNormalizers(HookBase):
    """Keeps the running mean of positive anchors of each process in checkpoints.

    Detectron2 has it in an attribute alone, so that its own resumed runs start it anew. Put it
    before the checkpointing hook.

    Args:
        model: to train.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.values: list[float | None] = []

    def after_step(self) -> None:
        """Tell the first process, which writes checkpoints."""
        if dense_detector(self.model) is not None:
            self.values = comm.all_gather(read_normalizer(self.model))

    def state_dict(self) -> dict[str, Any]:
        """The count of each process; nothing for other detectors."""
        return {"loss_normalizers": self.values} if self.values else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with this process's count."""
        self.values = state["loss_normalizers"]
        set_normalizer(self.model, self.values[comm.get_rank() % len(self.values)])
