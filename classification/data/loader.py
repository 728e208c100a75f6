"""Batches of an image set in memory, for training without end and for one evaluation.

Legend: N batch, H and W height and width in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor

from classification.data.augment import crop_and_mirror, draw_crops, normalise
from classification.data.images import Batch, ImageSet
from classification.data.order import batch_order, seeded_generator, share_of_rank


class BatchLoader(ABC):
    """Base of the loaders of normalised batches.

    Args:
        mean: of each channel, red first, as a fraction of full brightness.
        std: standard deviation of each channel, alike.
        device: of the batches.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)
        self.rank = rank
        self.world_size = world_size

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yields this process's part of the batches."""


class EndlessLoader(BatchLoader):
    """Base of the loaders of shuffled and augmented batches without end.

    A batch is a function of the seed and the iteration alone; a process takes its part of it.

    Args:
        num_images: in the set.
        batch_size: images in a batch, over all processes.
        flip: mirror half of the images.
        seed: 0 or more.
        options: of :class:`BatchLoader`.

    Attributes:
        start_iter: the iteration that comes first; read when the first batch is asked for.
        seed: a resumed run sets that of its checkpoint; read at the same time.

    Raises:
        ValueError: a batch size that is no multiple of the number of processes.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        flip: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if batch_size < 1 or batch_size % self.world_size != 0:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH: got {batch_size}, "
                f"expected a positive multiple of the {self.world_size} processes"
            )
        self.start_iter = 0
        self.num_images = num_images
        self.batch_size = batch_size
        part = share_of_rank(batch_size, self.rank, self.world_size)
        self.part = slice(part.start, part.stop)
        self.flip = flip
        self.seed = seed

    def own_order(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Returns epochs and positions of this process's images of an iteration, int64."""
        epochs, positions = batch_order(self.num_images, self.seed, self.batch_size, iteration)
        return epochs[self.part], positions[self.part]


class OrderedLoader(BatchLoader):
    """Base of the loaders of the images in order, once, without augmentation.

    Each process takes a share of them; ``batch_size`` is the largest number of images in its
    batches. ``options`` are those of :class:`BatchLoader`.
    """

    def __init__(self, num_images: int, batch_size: int, **options: Any) -> None:
        super().__init__(**options)
        share = share_of_rank(num_images, self.rank, self.world_size)
        starts = range(0, len(share), batch_size)
        self.positions = [share[start : start + batch_size] for start in starts]

    def __len__(self) -> int:
        """Returns the number of batches of this process."""
        return len(self.positions)


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread of the CPU, as the workers of PyTorch's loader do.

    A second one gains little on a batch of small images, and where the machine's cores are busy
    every operation waits for it: 1,000 images a second instead of 90,000.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class InMemoryLoader(EndlessLoader):
    """Augments whole batches on the device, to which the images are copied.

    An image has ``padding`` zero pixels around it before a crop of its own size is taken at random;
    the other arguments are those of :class:`EndlessLoader`.
    """

    def __init__(
        self, image_set: ImageSet, batch_size: int, *, padding: int = 4, **options: Any
    ) -> None:
        super().__init__(len(image_set), batch_size, **options)
        self.images = image_set.to(self.mean.device)
        self.padding = padding

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from ``start_iter`` on."""
        for iteration in count(self.start_iter):
            yield self.batch(iteration)

    @one_thread()
    def batch(self, iteration: int) -> Batch:
        """Returns this process's part of the batch of an iteration, counted from 0."""
        _, own = self.own_order(iteration)
        # Drawn for all processes, so that their number changes nothing.
        generator = seeded_generator(self.seed, "augmentation", iteration)
        crops = draw_crops(self.batch_size, self.padding, self.flip, generator)
        own = own.to(self.images.labels.device, non_blocking=True)
        # index_select copies whole images, where indexing goes pixel by pixel: 8 times as fast
        images = self.images.images.index_select(0, own)
        images = crop_and_mirror(images, crops[:, self.part], self.padding)
        return Batch(normalise(images, self.mean, self.std), self.images.labels[own], own)


class EvaluationLoader(OrderedLoader):
    """Copies images to the device a batch at a time; arguments as of :class:`OrderedLoader`."""

    def __init__(self, image_set: ImageSet, batch_size: int, **options: Any) -> None:
        super().__init__(len(image_set), batch_size, **options)
        self.images = image_set

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches, in order."""
        device = self.mean.device
        for positions in self.positions:
            part = slice(positions.start, positions.stop)
            images = normalise(self.images.images[part].to(device), self.mean, self.std)
            indices = torch.arange(part.start, part.stop, device=device)
            yield Batch(images, self.images.labels[part].to(device), indices)
