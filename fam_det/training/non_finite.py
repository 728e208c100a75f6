"""Training steps that skip iterations whose loss or gradient is not finite."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fam_det.files import one_line
from fam_det.files.metrics_file import end_last_line
from fam_det.training.checkpointing import read_loss_normalizer, set_loss_normalizer
from fam_det.training.reproducibility import without_jit_optimization

from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm

FILE = "non_finite.json"
logger = logging.getLogger(__name__)


class NonFiniteLoss(FloatingPointError):
    """Raised in every process if a loss or gradient of any is infinite or NaN."""


class SkipNonFinite:
    """A mixin for Detectron2's SimpleTrainer and AMPTrainer.

    An iteration whose loss or gradient is not finite changes no weight, no momentum and no running
    mean. It is written to ``non_finite.json`` in the output folder with its images, one JSON object
    per line.
    """

    max_non_finite = 0  # iterations that may be skipped; the next one is an error
    skipped = 0  # iterations so far
    folder = "."  # of the run
    model: nn.Module
    iter: int

    def run_step(self) -> None:
        """Runs one iteration; raises a FloatingPointError after too many that are not finite."""
        normalizer, buffers = read_loss_normalizer(self.model), _running_statistics(self.model)
        saved = [buffer.clone() for buffer in buffers]
        batches: list[Any] = []
        hook = self.model.register_forward_pre_hook(lambda _, args: batches.append(args[0]))
        try:
            with without_jit_optimization(self.model):
                super().run_step()  # type: ignore[misc]
        except FloatingPointError as error:
            if comm.get_world_size() > 1 and not isinstance(error, NonFiniteLoss):
                raise  # in this process only: the others are waiting for its gradients
            if buffers:
                torch._foreach_copy_(buffers, saved)
            set_loss_normalizer(self.model, normalizer)
            self._skip(error, image_names(batches[0] if batches else None))
        finally:
            hook.remove()

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **options: Any) -> None:
        """Checks losses and gradients in all processes; Detectron2 checks only the first one."""
        losses = torch.stack([x.detach().isfinite().all() for x in loss_dict.values()]).all()
        gradients = self._gradients_to_check()
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else losses
        checked = torch.stack([losses, norms.isfinite().all()]).tolist()  # waits for the GPU once
        finite_losses, finite_gradients = map(all, zip(*comm.all_gather(checked), strict=True))
        if not (finite_losses and finite_gradients):
            text = ", ".join(f"{name} {float(x.detach()):.4g}" for name, x in loss_dict.items())
            raise NonFiniteLoss(text + (", its gradient is not finite" if finite_losses else ""))
        super()._write_metrics(loss_dict, *args, **options)  # type: ignore[misc]

    def _gradients_to_check(self) -> list[Tensor]:
        """Returns all gradients: an infinite one makes weights NaN, in checkpoints too."""
        return [x.grad for x in self.model.parameters() if x.grad is not None]

    def _skip(self, error: FloatingPointError, images: list[Any]) -> None:
        self.skipped += 1
        reason = one_line(error)
        processes = comm.gather({"losses": reason, "images": images})
        file = Path(self.folder) / FILE
        if comm.is_main_process():
            end_last_line(file)
            with file.open("a") as lines:
                lines.write(json.dumps({"iteration": self.iter, "processes": processes}) + "\n")
        if self.skipped > self.max_non_finite:
            raise FloatingPointError(
                f"iteration {self.iter}: a loss or its gradient is not finite ({reason}); "
                f"SOLVER.MAX_NON_FINITE allows {self.max_non_finite} such iterations; the "
                f"images are in {file}; a lower SOLVER.BASE_LR or longer warm-up may help"
            ) from error
        count = f"{self.skipped} of at most {self.max_non_finite}"
        logger.warning("Iteration %d skipped (%s): %s", self.iter, count, reason)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of Detectron2's trainer, and the number of skipped iterations."""
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return state | {"passed_over": self.skipped}  # the checkpoints' name for it

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes from a checkpoint."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        self.skipped = state_dict.get("passed_over", 0)


class StepTrainer(SkipNonFinite, SimpleTrainer):
    """Detectron2's SimpleTrainer, which skips losses that are not finite."""


class AMPStepTrainer(SkipNonFinite, AMPTrainer):
    """Detectron2's AMPTrainer, which skips losses that are not finite."""

    def _gradients_to_check(self) -> list[Tensor]:
        """Returns none: the gradient scaler itself skips the step if one is infinite."""
        return []


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """Returns the buffers of BatchNorms, which a forward pass in training changes."""
    norms = [x for x in model.modules() if isinstance(x, _BatchNorm) and x.training]
    return [buffer for norm in norms for buffer in norm.buffers()]


def image_names(batch: Any) -> list[Any]:
    """Returns file and id of each of a detector's images, or positions of a classifier's."""
    if isinstance(batch, list):
        keys = ("image_id", "file_name")
        return [{key: item[key] for key in keys if key in item} for item in batch]
    indices = getattr(batch, "indices", None)
    return [] if indices is None else list(indices.tolist())
