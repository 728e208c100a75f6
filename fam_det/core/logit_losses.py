"""Losses between the logits of two classifiers, of an image or of a region.

Legend: N images or regions, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def decoupled_divergences(
    student: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD, equation 5 of DKD (Zhao et al., CVPR 2022), with the teacher's side first.

    In logarithms throughout, so that a probability of 0 gives no NaN; the released code subtracts
    1000 from the target's logit where this leaves the target out.

    Args:
        student: logits (N, K), divided by the temperature.
        teacher: logits (N, K), divided by the temperature.
        labels: int64 (N,).

    Returns:
        Two scalars, means over the images; 0 where N is 0.
    """
    target = F.one_hot(labels, student.shape[1]).bool()
    log_b_student, log_b_teacher = (log_target_and_rest(x, target) for x in (student, teacher))
    log_p_student, log_p_teacher = (
        F.log_softmax(without_target(x, target), 1) for x in (student, teacher)
    )
    return mean_divergence(log_b_student, log_b_teacher), mean_divergence(
        log_p_student, log_p_teacher
    )


def mean_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p || q) of log probabilities (N, K), the mean over N."""
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / max(len(log_q), 1)


def without_target(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of the other classes: (N, K) and a mask (N, K) -> (N, K - 1)."""
    return logits[~target].reshape(len(logits), logits.shape[1] - 1)


def log_target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Logarithm of the probability of the target and of all others: (N, K) -> (N, 2)."""
    rest = without_target(logits, target).logsumexp(1)
    return F.log_softmax(torch.stack([logits[target], rest], 1), 1)
