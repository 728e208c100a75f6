"""Everything random as a function of a seed and a place in the training.

So an unbroken run and a resumed one, one process and several, one worker and many see the same.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fam_det.data.seeding import derive_seed


def seeded_generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """Returns a generator on the CPU, whatever the device: a GPU's would draw other numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *place))


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Returns a permutation of 0..count-1, (count,) int64. It is shared: don't write to it."""
    return torch.randperm(count, generator=seeded_generator(seed, "order", epoch))


def batch_order(count: int, seed: int, batch_size: int, iteration: int) -> tuple[Tensor, Tensor]:
    """Returns the epoch of each image of a batch and its position, (batch_size,) int64 both.

    Shuffled epochs of ``count`` images follow each other. A batch may end one epoch and begin the
    next, so every batch is full and every image is in an epoch once.
    """
    places = torch.arange(iteration * batch_size, (iteration + 1) * batch_size)
    epochs = places // count
    positions = [
        epoch_order(count, seed, epoch)[places[epochs == epoch] % count]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return epochs, torch.cat(positions)


def share_of_rank(count: int, rank: int, world_size: int) -> range:
    """Returns the positions of a process's part of ``count``: contiguous, as equal as possible."""
    return range(rank * count // world_size, (rank + 1) * count // world_size)
