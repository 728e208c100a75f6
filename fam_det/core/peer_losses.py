"""Losses between feature maps of other methods, on the cells that hold image.

Legend: N batch, C channels, H and W map size, L cells of all images without their padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core.losses import ValidSizes, comparable
from fam_det.core.wavelet import haar_pyramid

WAVELET_LEVELS = 3  # as the released code of FreeKD
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


def wavelet_band_loss(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None
) -> Tensor:
    """Absolute differences of the high Haar bands (FreeKD, Zhang et al., CVPR 2024).

    Without the masks of the paper, which come from prompts that the teacher is fine-tuned with
    first. The low band is left out, as in the released code, which takes three levels of the
    transform and adds the mean of each.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: as of :func:`pearson_loss`.

    Returns:
        Scalar, 0 or more, float32 (float64 for float64 maps).
    """
    losses = []
    for x, y in images_of(student, teacher, valid_sizes):
        bands = haar_pyramid(x - y, WAVELET_LEVELS)  # of the difference: the transform is linear
        losses.append(torch.stack([band.abs().mean() for band in bands]).sum())
    return torch.stack(losses).mean()


def imitation_loss(student: Tensor, teacher: Tensor, near_objects: Tensor) -> Tensor:
    """Half the squared distance on cells near objects (FGFI, Wang et al., CVPR 2019).

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        near_objects: bool (N, H, W), the cells that count.

    Returns:
        Scalar, 0 or more: summed over channels, the mean over the cells that count; 0 without any.
    """
    x, y = comparable(student, teacher)
    distances = (x - y).square().sum(1)  # (N, H, W)
    return 0.5 * (distances * near_objects).sum() / near_objects.sum().clamp(min=1)


def _cells(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None
) -> tuple[Tensor, Tensor]:
    """Both maps as (C, L) in float32 or better, without the padding."""
    pairs = images_of(student, teacher, valid_sizes)
    x, y = (torch.cat([m.flatten(1) for m in maps], dim=1) for maps in zip(*pairs, strict=True))
    return x, y


def images_of(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None
) -> list[tuple[Tensor, Tensor]]:
    """Both maps of each image, (C, h, w) in float32 or better, without the padding."""
    sizes = valid_sizes or [(student.shape[2], student.shape[3])] * len(student)
    maps = comparable(student, teacher)
    return [(x[:, :h, :w], y[:, :h, :w]) for x, y, (h, w) in zip(*maps, sizes, strict=True)]


def _standardised(x: Tensor) -> Tensor:
    """(C, L) with mean 0 and deviation 1 in each row."""
    centred = x - x.mean(1, keepdim=True)
    return centred * (centred.square().mean(1, keepdim=True) + EPSILON).rsqrt()
