"""DKD on the class logits of the student's regions."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.core.checks import check_positive
from fam_det.core.losses import ValidSizes
from fam_det.core.peer_losses import decoupled_divergences
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, Distiller, Shapes
from fam_det.modeling.head_loss import box_outputs, has_box_head
from fam_det.modeling.hooks import forward_hook

from detectron2.config import CfgNode, configurable
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances


@DISTILLER_REGISTRY.register()
class DKDDistiller(Distiller):
    """Decoupled knowledge distillation of R-CNN's box head (Zhao et al., CVPR 2022).

    As in the authors' detection code the teacher's box head runs on the teacher's maps at the
    student's sampled proposals; the logits of both, with background as a class, are compared.
    Unlike that code, which runs the student's box head twice, this takes the logits of the
    student's own forward pass.

    Args:
        levels: names of the maps that the teacher's box head may read.
        alpha: weight of TCKD, 0 or more.
        beta: weight of NCKD, 0 or more.
        temperature: divides the logits, more than 0.

    Raises:
        ValueError: another weight or temperature.
    """

    teacher_parts = ("roi_heads",)
    reads = ("DKD",)

    @configurable
    def __init__(
        self, *, levels: Sequence[str], alpha: float, beta: float, temperature: float
    ) -> None:
        super().__init__()
        check_positive("MODEL.DISTILLER.DKD.ALPHA", alpha, zero=True)
        check_positive("MODEL.DISTILLER.DKD.BETA", beta, zero=True)
        check_positive("MODEL.DISTILLER.DKD.TEMPERATURE", temperature)
        self.levels = list(levels)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    @classmethod
    def from_config(
        cls, cfg: CfgNode, levels: Sequence[str], student: Shapes, teacher: Shapes
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        options = {key.lower(): value for key, value in cfg.MODEL.DISTILLER.DKD.items()}
        return {"levels": levels, **options}

    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raises a ValueError for detectors whose region logits cannot be compared."""
        student_heads = box_roi_heads(student, "student")
        teacher_heads = box_roi_heads(teacher, "teacher")
        if student_heads.num_classes != teacher_heads.num_classes:
            raise ValueError(
                f"MODEL.ROI_HEADS.NUM_CLASSES: DKDDistiller needs the teacher's "
                f"{teacher_heads.num_classes} classes, got {student_heads.num_classes}"
            )
        if missing := [name for name in teacher_heads.box_in_features if name not in self.levels]:
            raise ValueError(
                f"MODEL.DISTILLER.LEVELS: DKDDistiller needs {missing[0]!r}, which the teacher's "
                f"box head reads, got {', '.join(self.levels)}"
            )

    @contextmanager
    def capture(
        self, student: nn.Module, teacher: nn.Module, batched_inputs: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Records the student's sampled boxes, their classes and logits."""
        heads = box_roi_heads(student, "student")
        captured: dict[str, Any] = {"teacher_heads": box_roi_heads(teacher, "teacher")}

        def record_boxes(inputs: Sequence[Any], _: Tensor) -> None:
            captured["boxes"] = inputs[1]

        def record_logits(_: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
            captured["logits"] = output[0]

        def record_classes(_: Sequence[Any], output: tuple[list[Instances], Any]) -> None:
            captured["classes"] = torch.cat([proposals.gt_classes for proposals in output[0]])

        with (
            forward_hook(heads.box_pooler, record_boxes),
            forward_hook(heads.box_predictor, record_logits),
            forward_hook(heads, record_classes),
        ):
            yield captured

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        valid_sizes: Mapping[str, ValidSizes],
        *,
        teacher_heads: StandardROIHeads,
        boxes: Sequence[Boxes],
        logits: Tensor,
        classes: Tensor,
    ) -> dict[str, Tensor]:
        """Returns the unweighted loss ``roi_logits``.

        The ``teacher_heads`` compute logits of the teacher's maps (N, C_teacher, H, W) at the
        sampled ``boxes`` of each image, R in all; ``logits`` (R, K + 1) are the student's there,
        ``classes`` int64 (R,) in [0, K], K for background.
        """
        with torch.no_grad():
            teacher_logits, _ = box_outputs(teacher_heads, teacher, boxes)
        tckd, nckd = decoupled_divergences(
            logits.float() / self.temperature, teacher_logits / self.temperature, classes
        )
        loss = self.temperature**2 * (self.alpha * tckd + self.beta * nckd)
        return {"roi_logits": loss}


def box_roi_heads(detector: nn.Module, owner: str) -> StandardROIHeads:
    """Returns a detector's ROI heads; raises a ValueError unless they ``has_box_head``."""
    heads = getattr(detector, "roi_heads", None)
    if not has_box_head(heads):
        raise ValueError(
            "MODEL.DISTILLER.NAME: DKDDistiller needs R-CNNs with StandardROIHeads, the "
            f"{owner} has {type(heads).__name__ if heads is not None else 'no ROI heads'}"
        )
    return heads
