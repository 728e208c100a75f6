"""A student classifier, its frozen teacher and the distiller between them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.data import Batch
from classification.distillers import Distiller
from classification.models import stage_features
from fam_det.core.checks import check_positive
from fam_det.files.metrics_file import LOG_PERIOD
from fam_det.modeling.metrics import log_scalars
from fam_det.modeling.student_wrapper import StudentWrapper

from detectron2.utils.events import get_event_storage


class DistilledClassifier(StudentWrapper):
    """Returns a dictionary of losses in training, otherwise the student's logits.

    Its checkpoint is a checkpoint of the student with extra ``distiller.*`` keys.

    Args:
        student: the network to train.
        teacher: the network to learn from, on the student's classes; None without a distiller.
        distiller: compares the two; None to learn only from the labels.
        loss_weight: of the distillation loss.
        ce_weight: of the cross entropy.
        warmup_epochs: ``loss_weight`` is multiplied by min(epoch / warmup_epochs, 1), the first
            epoch being 1.
        epoch_iters: iterations per epoch.
        teacher_affine: factor and offset, (3, 1, 1) each, that turn the student's images into the
            teacher's; None if they have the same normalisation.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        distiller: Distiller | None = None,
        *,
        loss_weight: float = 1.0,
        ce_weight: float = 1.0,
        warmup_epochs: float = 0.0,
        epoch_iters: float = 1.0,
        teacher_affine: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        check_positive("MODEL.DISTILLER.LOSS_WEIGHT", loss_weight, zero=True)
        check_positive("MODEL.DISTILLER.CE_WEIGHT", ce_weight, zero=True)
        check_positive("MODEL.DISTILLER.WARMUP_EPOCHS", warmup_epochs, zero=True)
        if teacher is not None and distiller is not None:
            teacher.eval().requires_grad_(False)
            self.distiller = distiller
        self.loss_weight = loss_weight
        self.ce_weight = ce_weight
        self.warmup_iters = warmup_epochs * epoch_iters
        self.epoch_iters = epoch_iters
        self.teacher_affine = teacher_affine
        self._hits: Tensor | int = 0
        self._images = 0

    def forward(self, batch: Batch) -> dict[str, Tensor] | Tensor:
        """Returns the losses of a batch; outside of training the student's logits (N, K)."""
        if not self.training:
            return self.student(batch.images)
        if self.teacher is None:
            logits = self.student(batch.images)
            losses: dict[str, Tensor] = {}
        else:
            losses, logits = self._distill(self.teacher, batch)
        losses["loss_ce"] = self.ce_weight * F.cross_entropy(logits, batch.labels)
        self._log_accuracy(logits, batch.labels)
        return losses

    def teacher_images(self, images: Tensor) -> Tensor:
        """Returns the student's images (N, 3, H, W) with the teacher's normalisation."""
        if self.teacher_affine is None:
            return images
        factor, offset = (x.to(images) for x in self.teacher_affine)
        return images * factor + offset

    def _distill(self, teacher: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        with torch.no_grad():
            teacher_features = stage_features(teacher, self.teacher_images(batch.images))
        student = stage_features(self.student, batch.images)
        terms = self.distiller(student, teacher_features, batch.labels, batch.indices)
        storage = get_event_storage()
        weight = self.loss_weight * self._warmup(storage.iter)
        storage.put_scalar("distiller/loss_weight", weight)
        named = {f"loss_{name}": term for name, term in terms.items()}
        log_scalars(named | self.distiller.metrics())
        term_weights = self.distiller.term_weights
        total = sum(term_weights.get(name, 1.0) * term for name, term in terms.items())
        return {"loss_distill": weight * total}, student.logits

    def _warmup(self, iteration: int) -> float:
        """Returns the warm-up factor of an iteration, counted from 0."""
        if self.warmup_iters == 0:
            return 1.0
        epoch = 1 + int(iteration / self.epoch_iters)
        return min(epoch * self.epoch_iters / self.warmup_iters, 1.0)

    def _log_accuracy(self, logits: Tensor, labels: Tensor) -> None:
        """Logs the accuracy on the images since it was last logged."""
        # Summed on the device: reading a value waits for it.
        self._hits = self._hits + (logits.detach().argmax(1) == labels).sum()
        self._images += len(labels)
        storage = get_event_storage()
        if (storage.iter + 1) % LOG_PERIOD == 0:
            top1 = 100.0 * float(self._hits) / self._images
            storage.put_scalar("train/top1", top1, smoothing_hint=False)
            self._hits, self._images = 0, 0
