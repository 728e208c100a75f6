"""Losses between feature maps of other methods, on the cells that hold image.

Legend: N batch, C channels, H and W map size, L cells of all images without their padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core.losses import ValidSizes, comparable

EPSILON = 1e-8  # of a variance: a channel that is constant over the batch has none


def pearson_loss(student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None) -> Tensor:
    """One minus Pearson's correlation, of PKD (Cao et al., NeurIPS 2022, equation 5).

    Every channel is normalised over the batch to mean 0 and deviation 1; the loss is half the mean
    squared difference.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: (h, w) of each image's top left cells that count, None for all.

    Returns:
        Scalar in [0, 2], float32 (float64 for float64 maps).
    """
    x, y = (_standardised(m) for m in _cells(student, teacher, valid_sizes))
    return 0.5 * F.mse_loss(x, y)


def channel_wise_loss(
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Channel-wise distillation (CWD, Shu et al., ICCV 2021, equation 5).

    The softmax of each channel over its cells, at a temperature T; the Kullback-Leibler divergence
    from the teacher's, times T^2, averaged over channels and images.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: as of :func:`pearson_loss`.
        temperature: T.

    Returns:
        Scalar, 0 or more, float32 (float64 for float64 maps).
    """
    losses = []
    for i in range(len(student)):
        sizes = None if valid_sizes is None else valid_sizes[i : i + 1]
        x, y = _cells(student[i : i + 1], teacher[i : i + 1], sizes)  # (C, L)
        log_q, log_p = ((m / temperature).log_softmax(1) for m in (x, y))
        losses.append(F.kl_div(log_q, log_p, reduction="sum", log_target=True) / len(x))
    return temperature**2 * torch.stack(losses).mean()


def _cells(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None
) -> tuple[Tensor, Tensor]:
    """Both maps as (C, L) in float32 or better, without the padding."""
    sizes = valid_sizes or [(student.shape[2], student.shape[3])] * len(student)
    x, y = (
        torch.cat([m[:, :h, :w].flatten(1) for m, (h, w) in zip(maps, sizes, strict=True)], dim=1)
        for maps in comparable(student, teacher)
    )
    return x, y


def _standardised(x: Tensor) -> Tensor:
    """(C, L) with mean 0 and deviation 1 in each row."""
    centred = x - x.mean(1, keepdim=True)
    return centred * (centred.square().mean(1, keepdim=True) + EPSILON).rsqrt()
