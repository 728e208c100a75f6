"""Losses between the transformed student maps and the teacher's.

Legend: N batch, C channels, H and W map size; valid sizes (h, w), in cells of the map, of each
image without its padding.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

ValidSizes = Sequence[tuple[int, int]]


def mse_loss(student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None) -> Tensor:
    """Mean squared error, the loss of FAM-KD.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: (h, w) of each image. The loss is then the mean over the images of the loss on
            their top left h x w cells: padding never counts. None takes whole maps.

    Returns:
        Scalar, float32 (float64 for float64 maps).

    Raises:
        ValueError: shapes that differ.
    """
    return _mean_over_images(_mean_square, student, teacher, valid_sizes)


def hierarchical_context_loss(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None
) -> Tensor:
    """Hierarchical context loss (HCL) of ReviewKD, Chen et al., CVPR 2021.

    The mean squared error of the maps, and of the maps average-pooled to 4x4, 2x2 and 1x1, weighted
    1, 1/2, 1/4 and 1/8 and divided by the sum of the weights used. A pooled size takes part where
    it is smaller than the map.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: as of :func:`mse_loss`.

    Returns:
        Scalar, float32 (float64 for float64 maps).

    Raises:
        ValueError: shapes that differ.
    """
    return _mean_over_images(_hierarchical_mean_square, student, teacher, valid_sizes)


LOSSES: dict[str, Callable[[Tensor, Tensor, ValidSizes | None], Tensor]] = {
    "mse": mse_loss,
    "hierarchical": hierarchical_context_loss,
}


def _mean_over_images(
    loss_of: Callable[[Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None,
) -> Tensor:
    """``loss_of`` the difference of the maps, as a whole or image by image on the valid cells."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"teacher: got a map of shape {tuple(teacher.shape)}, "
            f"expected that of the student, {tuple(student.shape)}"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    difference = student.to(dtype) - teacher.detach().to(dtype)
    if valid_sizes is None:
        return loss_of(difference)
    _check_valid_sizes(valid_sizes, difference)
    whole = (difference.shape[2], difference.shape[3])
    if all(size == whole for size in valid_sizes):
        return loss_of(difference)
    losses = [
        loss_of(image[None, :, :h, :w])
        for image, (h, w) in zip(difference, valid_sizes, strict=True)
    ]
    return torch.stack(losses).mean()


def _check_valid_sizes(valid_sizes: ValidSizes, maps: Tensor) -> None:
    """Raise a ValueError unless there is one size for each image, and it lies in the map."""
    if len(valid_sizes) != len(maps):
        raise ValueError(
            f"valid_sizes: got {len(valid_sizes)} entries, expected {len(maps)}, one an image"
        )
    height, width = maps.shape[2:]
    for h, w in valid_sizes:
        if not (1 <= h <= height and 1 <= w <= width):
            raise ValueError(
                f"valid_sizes: got {(h, w)}, expected (1, 1) to {(height, width)}, the map's size"
            )


def _mean_square(difference: Tensor) -> Tensor:
    return difference.square().mean()


def _hierarchical_mean_square(difference: Tensor) -> Tensor:
    """Pooling is linear, so the difference of the pooled maps is the pooled difference."""
    loss, weight, total = _mean_square(difference), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= min(difference.shape[2:]):
            continue
        weight /= 2.0
        loss = loss + weight * _mean_square(F.adaptive_avg_pool2d(difference, side))
        total += weight
    return loss / total
