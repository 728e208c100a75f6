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


class EndlessOrder:
    """Epochs of shuffled images, one after the other, cut into batches without end.

    A batch may end one epoch and begin the next, so every batch is full and every image is in an
    epoch once.

    Args:
        count: number of images N, 1 or more.
        batch_size: images in a batch, over all processes.
        seed: 0 or more.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Returns epoch and position in the set of each image, (batch_size,) int64 both."""
        start = iteration * self.batch_size
        places = torch.arange(start, start + self.batch_size)
        epochs = places // self.count
        orders = {
            epoch: epoch_order(self.count, self.seed, epoch)
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        }
        parts = [order[places[epochs == epoch] % self.count] for epoch, order in orders.items()]
        return epochs, torch.cat(parts)


def share_of_rank(count: int, rank: int, world_size: int) -> range:
    """Returns the positions of a process's part of ``count``: contiguous, as equal as possible."""
    return range(rank * count // world_size, (rank + 1) * count // world_size)
