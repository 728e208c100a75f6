"""Decoupled knowledge distillation.

Legend: N batch, K classes, T temperature.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.distillers.base import DISTILLER_REGISTRY, FeatureShapes
from classification.distillers.peer import PeerDistiller, check_positive, check_weight
from classification.models import Features

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


def decoupled_divergences(
    student: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD, equation 5 of Zhao et al., with the teacher's side first.

    In logarithms throughout, so that a probability of 0 gives no NaN; the released code subtracts
    1000 from the target's logit where this leaves the target out.

    Args:
        student: logits (N, K), divided by the temperature.
        teacher: logits (N, K), divided by the temperature.
        labels: int64 (N,).

    Returns:
        Two scalars, means over the images.
    """
    target = F.one_hot(labels, student.shape[1]).bool()
    log_b_student, log_b_teacher = (log_target_and_rest(x, target) for x in (student, teacher))
    log_p_student, log_p_teacher = (
        F.log_softmax(without_target(x, target), 1) for x in (student, teacher)
    )
    return (
        F.kl_div(log_b_student, log_b_teacher, reduction="batchmean", log_target=True),
        F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True),
    )


def without_target(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of the other classes: (N, K) and a mask (N, K) -> (N, K - 1)."""
    return logits[~target].reshape(len(logits), -1)


def log_target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the probability of the target and of all others: (N, K) -> (N, 2)."""
    rest = without_target(logits, target).logsumexp(1)
    return F.log_softmax(torch.stack([logits[target], rest], 1), 1)
