"""Detectron2's default trainer with everything in its checkpoints that a resumed run needs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from fam_det import detectron2_compat

detectron2_compat.apply()

from fam_det.checkpointer import SafeCheckpointer  # noqa: E402

from detectron2.config import CfgNode  # noqa: E402
from detectron2.engine import DefaultTrainer, defaults  # noqa: E402


class ResumableTrainer(DefaultTrainer):
    """Its checkpoints hold the optimiser, the loss scaler and the random states as well.

    Detectron2 v0.6 forgets the first two, so that its resumed runs start without momentum; the main
    branch keeps them.
    """

    def __init__(self, cfg: CfgNode) -> None:
        with (
            replaced("create_ddp_model", ddp_on(cfg.MODEL.DEVICE)),
            replaced("DetectionCheckpointer", SafeCheckpointer),
        ):
            super().__init__(cfg)
        self.checkpointer.add_checkpointable("random_state", RandomState())

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


def ddp_on(device: str) -> Any:
    """What wraps a model in DDP; Detectron2's own names a GPU for every process."""
    ddp = defaults.create_ddp_model
    return partial(ddp, device_ids=None) if device == "cpu" else ddp


class RandomState:
    """The state of every random number generator of this process, as a checkpointable."""

    def state_dict(self) -> dict[str, Any]:
        """States of Python, NumPy and PyTorch, in plain containers and tensors."""
        kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
        return {
            "python": random.getstate(),
            "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"].cpu())
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([x.cpu() for x in state["cuda"]])
