"""Decoupled knowledge distillation."""

from typing import Any

from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.peer import PeerDistiller, check_positive, check_weight
from classification.models import Features
from fam_det.core.peer_losses import decoupled_divergences

from detectron2.config import CfgNode, configurable


@DISTILLER_REGISTRY.register()
class DKD(PeerDistiller):
    """Decoupled knowledge distillation, Zhao et al., CVPR 2022, arXiv 2203.08679.

    Hinton's divergence splits into one over (the target class, all others) and one over the
    classes other than the target; see :func:`decoupled_divergences`.

    Args:
        alpha: weight of the first, TCKD.
        beta: weight of the second, NCKD.
        temperature: T, positive.

    Raises:
        ValueError: a negative weight, or a temperature that is not positive.
    """

    warmup_epochs = 20.0

    @configurable
    def __init__(self, *, alpha: float, beta: float, temperature: float) -> None:
        super().__init__()
        check_weight("DKD.ALPHA", alpha)
        check_weight("DKD.BETA", beta)
        check_positive("DKD.TEMPERATURE", temperature)
        self.temperature = temperature
        self.term_weights = {"target": alpha, "others": beta}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        node = cfg.MODEL.DISTILLER.DKD
        return {"alpha": node.ALPHA, "beta": node.BETA, "temperature": node.TEMPERATURE}

    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """TCKD as ``target``, NCKD as ``others``."""
        target, others = decoupled_divergences(
            student.logits / self.temperature, teacher.logits / self.temperature, labels
        )
        return {"target": self.temperature**2 * target, "others": self.temperature**2 * others}
