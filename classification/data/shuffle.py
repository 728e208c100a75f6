"""Everything random as a function of a seed and a place in the training.

An unbroken run and a resumed one, one process and several, one worker and many so see the same.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fam_det.data.seeding import derive_seed


def seeded_generator(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A generator on the CPU, whatever the device: a GPU's would draw other numbers."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *place))


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0..count-1, (count,) int64. It is shared: don't write to it."""
    return torch.randperm(count, generator=seeded_generator(seed, "order", epoch))


class EndlessOrder:
    """Epochs of shuffled images, one after the other, cut into batches without end.

    A batch may end one epoch and begin the next, so every batch is full and every image is seen
    once an epoch.

    Args:
        count: number of images N.
        batch_size: images in a batch, over all processes.
        seed: 0 or more.

    Raises:
        ValueError: no images, or an empty batch.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        if count < 1 or batch_size < 1:
            raise ValueError(
                f"got {count} images and batch_size {batch_size}, expected 1 or more of each"
            )
        self.count = count
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Epoch and position in the set of each image of a batch, (batch_size,) int64 both."""
        start = iteration * self.batch_size
        stop = start + self.batch_size
        epochs = torch.arange(start, stop) // self.count
        parts = []
        for epoch in range(start // self.count, (stop - 1) // self.count + 1):
            first = epoch * self.count
            order = epoch_order(self.count, self.seed, epoch)
            parts.append(order[max(start - first, 0) : stop - first])
        return epochs, torch.cat(parts)


def rank_part(batch_size: int, rank: int, world_size: int) -> slice:
    """The part of a batch that a process takes.

    Raises:
        ValueError: no such process, or a batch that can't be cut into equal parts.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: got {rank}, expected 0 or more and less than {world_size}")
    if batch_size % world_size != 0:
        raise ValueError(
            f"batch_size: got {batch_size}, expected a multiple of the {world_size} processes"
        )
    size = batch_size // world_size
    return slice(rank * size, (rank + 1) * size)
