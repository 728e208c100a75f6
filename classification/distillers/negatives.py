"""Random images of other classes, for the contrastive methods.

Legend: N batch, M images of the training set, K negatives.
"""

import torch
from torch import Tensor, nn


class NegativeSampler(nn.Module):
    """Draws images of other classes, uniformly, with replacement, from torch's global generator.

    With replacement, any number can be drawn from a training set of any size. RepDistiller draws
    without where there are enough; the loss has the same mean.

    Args:
        labels: int64 (M,), of the whole training set.

    Raises:
        ValueError: images of a single class.
    """

    order: Tensor
    start: Tensor
    count: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        count = labels.bincount()
        if (count > 0).sum() < 2:
            raise ValueError("labels: got a training set of one class, expected two or more")
        # What the data set determines is not in the checkpoint.
        self.register_buffer("order", labels.argsort(stable=True), persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("count", count, persistent=False)

    def forward(self, labels: Tensor, number: int) -> Tensor:
        """Positions in the training set of images of other classes: int64 (N,) -> (N, K)."""
        start, count = (x[labels][:, None] for x in (self.start, self.count))  # (N, 1)
        others = len(self.order) - count
        big = torch.randint(2**62, (len(labels), number), device=labels.device)
        rank = big % others  # among the images of other classes, sorted by class
        return self.order[rank + count * (rank >= start)]
