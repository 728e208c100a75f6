"""The mean square of a map and of its average-pooled pyramid, with a gradient of one map's memory.

Legend: N batch, C channels, H and W map size.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.linalg import vector_norm


def mean_squares(x: Tensor, sides: Sequence[int] = ()) -> Tensor:
    """Returns the weighted mean of mean squares of a map and of the map average-pooled.

    The weights are 1, 1/2, 1/4, ... divided by their sum.

    Args:
        x: (N, C, H, W).
        sides: of the squares that the map is pooled to.

    Returns:
        Scalar of the dtype of ``x``. It can be differentiated once.
    """
    loss: Tensor = _MeanSquares.apply(x, tuple(sides))
    return loss


class _MeanSquares(torch.autograd.Function):
    """Plain operators would make five maps on the way back where one is enough."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sides: tuple[int, ...]) -> Tensor:
        pooled = [F.adaptive_avg_pool2d(x, side) for side in sides]
        ctx.save_for_backward(x, *pooled)
        weights = _pyramid_weights(len(pooled) + 1)
        # A norm a channel: over a whole large map its float32 sum is off by 0.3 %.
        squares = [vector_norm(t, dim=(2, 3)).square().sum() / t.numel() for t in (x, *pooled)]
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
            by_row = torch.cat(rows).T.expand(n * c, -1, -1)  # (N * C, H, sum of sides)
            with torch.autocast(x.device.type, enabled=False):
                parts = [
                    (2.0 * w / p.numel() * grad) * p @ m
                    for w, p, m in zip(weights[1:], pooled, columns, strict=True)
                ]  # (N, C, side, W) each
                by_column = torch.cat(parts, dim=2).flatten(0, 1)  # (N * C, sum of sides, W)
                d_x.view(n * c, height, width).baddbmm_(by_row, by_column)
        return d_x, None


def _pyramid_weights(levels: int) -> list[float]:
    """Returns 1, 1/2, 1/4, ... divided by their sum."""
    weights = [0.5**i for i in range(levels)]
    return [w / sum(weights) for w in weights]


def _pooling_matrix(size: int, side: int, like: Tensor) -> Tensor:
    """Returns adaptive average pooling along one dimension as a matrix, (``side``, ``size``)."""
    matrix = like.new_zeros(side, size)
    for i in range(side):
        cells = slice(i * size // side, -(-(i + 1) * size // side))
        matrix[i, cells] = 1.0 / len(matrix[i, cells])
    return matrix
