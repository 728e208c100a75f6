"""Random draws as functions of a seed and a position in the training.

So they are the same for an uninterrupted and a resumed run, and for any number of processes and
workers.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fam_det.data.seeding import derive_seed


def seeded_generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Returns a generator on the CPU for any device: a GPU's would draw other numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *place))


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Returns a permutation of 0..count-1, (count,) int64. It is cached: do not write to it."""
    return torch.randperm(count, generator=seeded_generator(seed, "order", epoch))


def batch_order(count: int, seed: int, batch_size: int, iteration: int) -> tuple[Tensor, Tensor]:
    """Returns the epoch of each image of a batch and its position, (batch_size,) int64 both.

    Shuffled epochs of ``count`` images are concatenated. A batch may span the end of an epoch, so
    every batch is full and every epoch has each image once.
    """
    steps = torch.arange(iteration * batch_size, (iteration + 1) * batch_size)
    epochs = steps // count
    positions = [
        epoch_order(count, seed, epoch)[steps[epochs == epoch] % count]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return epochs, torch.cat(positions)


def rank_range(count: int, rank: int, world_size: int) -> range:
    """Returns the positions of a process's part of ``count``: contiguous, of about equal size."""
    return range(rank * count // world_size, (rank + 1) * count // world_size)
