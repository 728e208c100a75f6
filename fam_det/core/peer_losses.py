"""Losses of other methods, which are no choices of ``MODEL.DISTILLER.LOSS``.

Legend: N batch, C channels, H and W map size, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core.losses import ValidSizes, matching_maps, mean_over_images

WAVELET_LEVELS = 3  # as the released code of FreeKD


def channel_wise_loss(
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Computes channel-wise distillation (CWD, Shu et al., ICCV 2021, equation 5).

    The softmax of each channel over its cells, at ``temperature`` T; the Kullback-Leibler
    divergence from the teacher's, times T^2, averaged over channels and images. Otherwise as
    :func:`fam_det.core.losses.mse_loss`.
    """

    def loss(x: Tensor, y: Tensor) -> Tensor:
        log_q, log_p = ((m / temperature).flatten(2).log_softmax(2) for m in (x, y))
        divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
        return divergence / (x.shape[0] * x.shape[1])

    return temperature**2 * mean_over_images(loss, student, teacher, valid_sizes)


def wavelet_band_loss(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None
) -> Tensor:
    """Averages absolute differences of the high Haar bands (FreeKD, Zhang et al., CVPR 2024).

    Without the paper's masks, which need prompts that a fine-tuning of the teacher learns first. As
    in the released code the low band is left out, and the means of three levels of the transform
    are added. Arguments and result are those of :func:`fam_det.core.losses.mse_loss`.
    """

    def loss(x: Tensor, y: Tensor) -> Tensor:
        bands = haar_pyramid(x - y, WAVELET_LEVELS)  # of the difference: the transform is linear
        return torch.stack([band.abs().mean() for band in bands]).sum()

    return mean_over_images(loss, student, teacher, valid_sizes)


def imitation_loss(student: Tensor, teacher: Tensor, near_objects: Tensor) -> Tensor:
    """Computes half the squared distance near objects (FGFI, Wang et al., CVPR 2019).

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        near_objects: bool (N, H, W), the cells that count.

    Returns:
        Scalar, 0 or more: summed over channels, the mean over the cells that count; 0 without any.
    """
    x, y = matching_maps(student, teacher)
    distances = (x - y).square().sum(1)  # (N, H, W)
    return 0.5 * (distances * near_objects).sum() / near_objects.sum().clamp(min=1)


def haar_bands(x: Tensor) -> tuple[Tensor, Tensor]:
    """Computes one level of the orthonormal Haar transform.

    The squares of all bands together sum to those of the maps. An odd side counts as one cell of
    zeros longer, as in the "zero" mode of PyWavelets.

    Args:
        x: (..., H, W), real.

    Returns:
        The low band (..., ceil(H / 2), ceil(W / 2)), and the three others, (..., 3, ceil(H / 2),
        ceil(W / 2)): differences of rows, of columns, and of both.
    """
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    upper, lower = x[..., 0::2, :], x[..., 1::2, :]
    (a, b), (c, d) = ((row[..., 0::2], row[..., 1::2]) for row in (upper, lower))
    high = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], dim=-3)
    return (a + b + c + d) / 2, high / 2


def haar_pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """Returns the three high bands of each level, fine to coarse.

    Args:
        x: (..., H, W), real.
        levels: 1 or more.

    Returns:
        (..., 3, ceil(H / 2^j), ceil(W / 2^j)) for j of 1 to ``levels``.
    """
    bands = []
    for _ in range(levels):
        x, high = haar_bands(x)
        bands.append(high)
    return bands


def decoupled_divergences(
    student: Tensor, teacher: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Computes TCKD and NCKD, equation 5 of DKD (Zhao et al., CVPR 2022): KL(teacher || student).

    In log space throughout, so that a probability of 0 gives no NaN. For NCKD the released code
    subtracts 1000 from the target's logit; this leaves the target out.

    Args:
        student: logits (N, K), divided by the temperature.
        teacher: logits (N, K), divided by the temperature.
        labels: int64 (N,).

    Returns:
        Two scalars, means over the images; 0 where N is 0.
    """
    target = F.one_hot(labels, student.shape[1]).bool()
    log_b_student, log_b_teacher = (_log_target_and_rest(x, target) for x in (student, teacher))
    log_p_student, log_p_teacher = (
        F.log_softmax(_without_target(x, target), 1) for x in (student, teacher)
    )
    return _mean_divergence(log_b_student, log_b_teacher), _mean_divergence(
        log_p_student, log_p_teacher
    )


def _mean_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Returns KL(p || q) of log probabilities (N, K), the mean over N."""
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / max(len(log_q), 1)


def _without_target(logits: Tensor, target: Tensor) -> Tensor:
    """Returns the logits of the other classes: (N, K) and a mask (N, K) -> (N, K - 1)."""
    return logits[~target].reshape(len(logits), logits.shape[1] - 1)


def _log_target_and_rest(logits: Tensor, target: Tensor) -> Tensor:
    """Returns log probabilities of the target and of all others: (N, K) -> (N, 2)."""
    rest = _without_target(logits, target).logsumexp(1)
    return F.log_softmax(torch.stack([logits[target], rest], 1), 1)
