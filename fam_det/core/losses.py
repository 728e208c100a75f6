"""Losses between the transformed student maps and the teacher's.

Legend: N batch, C channels, H and W map size; valid sizes (h, w), in cells of the map, of each
image without its padding.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

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


def _mean_over_images(
    loss_of: Callable[[Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None,
) -> Tensor:
    """``loss_of`` the difference of the maps, as a whole or image by image on the valid cells."""
    student, teacher = comparable(student, teacher)
    difference = student - teacher
    if valid_sizes is None:
        return loss_of(difference)
    check_valid_sizes(valid_sizes, difference)
    whole = (difference.shape[2], difference.shape[3])
    if all(size == whole for size in valid_sizes):
        return loss_of(difference)
    losses = [
        loss_of(image[None, :, :h, :w])
        for image, (h, w) in zip(difference, valid_sizes, strict=True)
    ]
    return torch.stack(losses).mean()


def comparable(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps in float32 or better, the teacher's without a gradient.

    Raises:
        ValueError: shapes that differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"teacher: got a map of shape {tuple(teacher.shape)}, "
            f"expected that of the student, {tuple(student.shape)}"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def check_valid_sizes(valid_sizes: ValidSizes, maps: Tensor) -> None:
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
    loss: Tensor = _MeanSquares.apply(difference, ())
    return loss


def _hierarchical_mean_square(difference: Tensor) -> Tensor:
    """Pooling is linear, so the difference of the pooled maps is the pooled difference."""
    smaller = min(difference.shape[2:])
    loss: Tensor = _MeanSquares.apply(difference, tuple(s for s in (4, 2, 1) if s < smaller))
    return loss


class _MeanSquares(torch.autograd.Function):
    """Mean square of a map, and of the map pooled to some sides with weight 1/2, 1/4, ...

    Plain operators would make five maps on the way back where one is enough.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, sides: tuple[int, ...]) -> Tensor:
        pooled = [F.adaptive_avg_pool2d(x, side) for side in sides]
        ctx.save_for_backward(x, *pooled)
        weights = _pyramid_weights(len(pooled) + 1)
        squares = [torch.linalg.vector_norm(t).square() / t.numel() for t in (x, *pooled)]
        return torch.stack([w * t for w, t in zip(weights, squares, strict=True)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, *pooled = ctx.saved_tensors
        n, c, height, width = x.shape
        weights = _pyramid_weights(len(pooled) + 1)
        # contiguous: a map may lie channels last in memory
        d_x = x.contiguous() * (2.0 * weights[0] / x.numel() * grad)
        if pooled:
            rows, columns = (
                [_pooling_matrix(size, p.shape[2], x) for p in pooled] for size in (height, width)
            )
            parts = [
                (2.0 * w / p.numel() * grad) * p @ m
                for w, p, m in zip(weights[1:], pooled, columns, strict=True)
            ]  # (N, C, side, W) each
            by_row = torch.cat(rows).T.expand(n * c, -1, -1)  # (N * C, H, sum of sides)
            by_column = torch.cat(parts, dim=2).flatten(0, 1)  # (N * C, sum of sides, W)
            d_x.view(n * c, height, width).baddbmm_(by_row, by_column)
        return d_x, None


def _pyramid_weights(levels: int) -> list[float]:
    """1, 1/2, 1/4, ... divided by their sum."""
    weights = [0.5**i for i in range(levels)]
    return [w / sum(weights) for w in weights]


def _pooling_matrix(size: int, side: int, like: Tensor) -> Tensor:
    """What adaptive average pooling does along one dimension, (``side``, ``size``)."""
    matrix = like.new_zeros(side, size)
    for i in range(side):
        cells = slice(i * size // side, -(-(i + 1) * size // side))
        matrix[i, cells] = 1.0 / len(matrix[i, cells])
    return matrix
