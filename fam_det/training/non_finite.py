"""Losses and gradients that are not finite: the iteration is passed over, and written down."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fam_det.training.loss_normalizer import read_normalizer, set_normalizer
from fam_det.training.metrics_file import end_last_line
from fam_det.training.reproducibility import same_from_the_first

from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.utils import comm

FILE = "non_finite.json"
logger = logging.getLogger(__name__)


class NonFiniteLoss(FloatingPointError):
    """A loss or gradient is infinite or not a number, and every process knows it."""


class PassesOverNonFinite:
    """A mixin for Detectron2's trainers of a step.

    An iteration whose loss or gradient is not finite changes no weight, no momentum and no running
    mean. It is written to ``non_finite.json`` in the output folder, with its images, a JSON object
    a line.

    Attributes:
        max_non_finite: iterations that may be passed over; the next one is an error.
        passed_over: how many were, kept in checkpoints.
        folder: of the run.
    """

    max_non_finite = 0
    passed_over = 0
    folder = "."
    model: nn.Module
    iter: int

    def run_step(self) -> None:
        """One iteration.

        Raises:
            FloatingPointError: one more whose loss is not finite than is allowed.
        """
        normalizer, means = read_normalizer(self.model), _running_statistics(self.model)
        before = [mean.clone() for mean in means]
        batches: list[Any] = []
        remembering = self.model.register_forward_pre_hook(lambda _, args: batches.append(args[0]))
        try:
            with same_from_the_first(self.model):
                super().run_step()  # type: ignore[misc]
        except FloatingPointError as error:
            alone = comm.get_world_size() == 1
            if not alone and not isinstance(error, NonFiniteLoss):
                raise  # of this process only: the others are waiting for its gradients
            if means:
                torch._foreach_copy_(means, before)
            set_normalizer(self.model, normalizer)
            self._pass_over(error, image_names(batches[0] if batches else None))
        finally:
            remembering.remove()

    def _write_metrics(self, loss_dict: Mapping[str, Tensor], *args: Any, **options: Any) -> None:
        """Before Detectron2 looks, in the first process only: all of them look."""
        finite = bool(torch.stack([x.detach().isfinite().all() for x in loss_dict.values()]).all())
        of_losses, of_gradients = zip(
            *comm.all_gather((finite, self._gradients_are_finite())), strict=True
        )
        if not all(of_losses + of_gradients):
            losses = ", ".join(f"{name} {float(x.detach()):.4g}" for name, x in loss_dict.items())
            raise NonFiniteLoss(losses + (", its gradient is not finite" if all(of_losses) else ""))
        super()._write_metrics(loss_dict, *args, **options)  # type: ignore[misc]

    def _gradients_are_finite(self) -> bool:
        """Otherwise every weight would be NaN after the step, in the next checkpoint too."""
        gradients = [x.grad for x in self.model.parameters() if x.grad is not None]
        return not gradients or bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())

    def _pass_over(self, error: FloatingPointError, images: list[Any]) -> None:
        self.passed_over += 1
        reason = " ".join(str(error).split())
        parts = comm.gather({"losses": reason, "images": images})
        if comm.is_main_process():
            line = {"iteration": self.iter, "processes": parts}
            end_last_line(Path(self.folder) / FILE)
            with (Path(self.folder) / FILE).open("a") as file:
                file.write(json.dumps(line) + "\n")
        count = f"{self.passed_over} of at most {self.max_non_finite}"
        if self.passed_over > self.max_non_finite:
            raise FloatingPointError(
                f"iteration {self.iter}: a loss or its gradient is not finite ({reason}); "
                "SOLVER.MAX_NON_FINITE "
                f"lets {self.max_non_finite} such iterations pass; the images are in "
                f"{Path(self.folder) / FILE}; a lower SOLVER.BASE_LR or longer warm-up may help"
            ) from error
        logger.warning("Iteration %d passed over (%s): %s", self.iter, count, reason)

    def state_dict(self) -> dict[str, Any]:
        """That of Detectron2's trainer, and how many iterations were passed over."""
        state: dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return state | {"passed_over": self.passed_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        super().load_state_dict(state_dict)  # type: ignore[misc]
        self.passed_over = state_dict.get("passed_over", 0)


class StepTrainer(PassesOverNonFinite, SimpleTrainer):
    """Detectron2's SimpleTrainer, which passes over losses that are not finite."""


class AMPStepTrainer(PassesOverNonFinite, AMPTrainer):
    """Detectron2's AMPTrainer, which passes over losses that are not finite."""

    def _gradients_are_finite(self) -> bool:
        """They are scaled, and the scaler leaves out the step of those that are not."""
        return True


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """What a forward pass in training changes: means, variances and counts of BatchNorms."""
    norms = [x for x in model.modules() if isinstance(x, _BatchNorm) and x.training]
    return [buffer for norm in norms for buffer in norm.buffers()]


def image_names(batch: Any) -> list[Any]:
    """What tells the images of a batch from others: file or id, or their position in the set."""
    if isinstance(batch, list):
        keys = ("image_id", "file_name")
        return [{key: item[key] for key in keys if key in item} for item in batch]
    indices = getattr(batch, "indices", None)
    return [] if indices is None else list(indices.tolist())
