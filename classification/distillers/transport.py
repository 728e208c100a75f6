"""Entropic optimal transport between the points of two sets of equal weights.

Legend: N points of the one set, P of the other.
"""

import math

import torch
from torch import Tensor

ITERATIONS = 20


def transport_plan(cost: Tensor, entropy: float, iterations: int = ITERATIONS) -> Tensor:
    """Sinkhorn's algorithm, Cuturi, NeurIPS 2013, arXiv 1306.0895, in logarithms.

    The plan pi with row sums 1 / N and column sums 1 / P that minimises
    sum(pi * cost) + entropy * sum(pi * log(pi)), approached by scaling rows and columns in turn.
    The columns are scaled last, so their sums are exact.

    Args:
        cost: (N, P); takes no gradient.
        entropy: weight of the entropy, positive, in the cost's unit.
        iterations: how often rows and columns are scaled.

    Returns:
        pi, (N, P).
    """
    log_plan = -cost.detach() / entropy
    n, p = cost.shape
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True) - math.log(n)
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True) - math.log(p)
    return log_plan.exp()


def transport_cost(cost: Tensor, entropy: float) -> Tensor:
    """Cost of the entropic optimal transport.

    The plan is held fixed, so the gradient is that of the regularised minimum (Danskin's theorem).

    Args:
        cost: (N, P).
        entropy: as of :func:`transport_plan`.

    Returns:
        Scalar, sum(pi * cost).
    """
    return torch.sum(transport_plan(cost, entropy) * cost)
