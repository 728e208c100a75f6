"""Batches of an image set in memory, for training without end and for one evaluation.

Legend: N batch, H and W height and width in pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import torch

from classification.data.augment import Crops, crop_and_mirror, draw_crops, normalise
from classification.data.images import Batch, ImageSet, share_of_rank
from classification.data.shuffle import EndlessOrder, rank_part, seeded_generator


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU, as the workers of PyTorch's loader do.

    A second one gains little on a batch of small images, and where the machine's cores are busy it
    is waited for at every operation: 1,000 images a second instead of 90,000.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class InMemoryLoader:
    """Shuffled and augmented batches without end, made on the device.

    A batch is a function of the seed and the iteration alone; a process takes its part of it.

    Args:
        image_set: the images, copied to the device unless they are there.
        batch_size: images in a batch, over all processes.
        mean: of each channel, red first, as a fraction of full brightness.
        std: standard deviation of each channel, alike.
        padding: zero pixels around an image before a crop of its own size is taken at random.
        flip: mirror half of the images.
        seed: 0 or more.
        device: of the batches.
        rank: number of this process.
        world_size: number of processes.

    Attributes:
        start_iter: the iteration that comes first; read when the first batch is asked for.

    Raises:
        ValueError: no images, or a batch size that is no multiple of the number of processes.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        padding: int = 4,
        flip: bool = True,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.start_iter = 0
        self.images = image_set.to(device)
        self.order = EndlessOrder(len(image_set), batch_size, seed)
        self.part = rank_part(batch_size, rank, world_size)
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)
        self.padding = padding
        self.flip = flip

    @property
    def seed(self) -> int:
        """The seed of all batches; a resumed run goes on with that of its checkpoint."""
        return self.order.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.order.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        """Batches from ``start_iter`` on."""
        for iteration in count(self.start_iter):
            yield self.batch(iteration)

    @one_thread()
    def batch(self, iteration: int) -> Batch:
        """This process's part of the batch of an iteration, counted from 0."""
        order = self.order
        _, indices = order.batch(iteration)
        # Drawn for all processes, so that their number changes nothing.
        generator = seeded_generator(order.seed, "augmentation", iteration)
        crops = draw_crops(order.batch_size, self.padding, self.flip, generator)
        own_crops = Crops(*(value[self.part] for value in crops))
        own = indices[self.part].to(self.images.labels.device, non_blocking=True)
        # index_select copies whole images, where indexing goes pixel by pixel: 8 times as fast
        images = self.images.images.index_select(0, own)
        images = crop_and_mirror(images, own_crops, self.padding)
        return Batch(normalise(images, self.mean, self.std), self.images.labels[own], own)


class EvaluationLoader:
    """The images in order, once, without augmentation; each process takes a share of them.

    Args:
        image_set: the images.
        batch_size: most images in a batch of this process.
        mean: of each channel, red first, as a fraction of full brightness.
        std: standard deviation of each channel, alike.
        device: of the batches.
        rank: number of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        share = share_of_rank(len(image_set), rank, world_size)
        self.images = image_set
        self.starts = range(share.start, share.stop, batch_size)
        self.stop = share.stop
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)

    def __len__(self) -> int:
        """Number of batches of this process."""
        return len(self.starts)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, in order."""
        device = self.mean.device
        for start in self.starts:
            part = slice(start, min(start + self.starts.step, self.stop))
            images = normalise(self.images.images[part].to(device), self.mean, self.std)
            indices = torch.arange(part.start, part.stop, device=device)
            yield Batch(images, self.images.labels[part].to(device), indices)
