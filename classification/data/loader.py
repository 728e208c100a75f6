"""Loaders of an image set: endless for training, and for one evaluation.

Images in memory are augmented in whole batches on the device; images on disk are decoded by worker
processes with torchvision's transforms.

Legend: N batch, S height and width in pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as T

from classification.data.augment import crop_and_mirror, draw_crops, normalise
from classification.data.images import AnyImages, Batch, ImageFiles, ImageSet, open_image
from classification.data.sampling import batch_order, rank_range, seeded_generator
from fam_det.data.dataset import SeededDataset
from fam_det.data.images import UnreadableImages
from fam_det.data.loader import RestartingLoader, seeded_batches, share_of_batch

from detectron2.data import MapDataset

Transform: TypeAlias = Callable[[Image.Image], Tensor]  # to (3, S, S) uint8
Decoded: TypeAlias = tuple[Tensor, int, int]  # pixels (3, S, S) uint8, label, position


@dataclass(eq=False)
class BatchLoader(ABC):
    """Base of the loaders of normalised batches of this process's part of the images."""

    images: AnyImages
    batch_size: int
    _: KW_ONLY
    mean: Sequence[float]  # of each channel, red first, as a fraction of full brightness
    std: Sequence[float]  # standard deviation of each channel, alike
    device: torch.device | str = "cpu"  # of the batches
    rank: int = 0  # number of this process
    world_size: int = 1  # number of processes
    # Only for images on disk:
    size: int = 0  # S of the crops
    num_workers: int = 4  # processes that decode; 0 decodes in this one
    timeout: float = 0.0  # seconds after which a worker counts as stuck; 0 for never

    def __post_init__(self) -> None:
        """Copies the statistics to the device."""
        self.device = torch.device(self.device)
        pin_memory = self.device.type == "cuda"
        self.decoding: dict[str, Any] = {"num_workers": self.num_workers, "pin_memory": pin_memory}
        self._statistics = [torch.tensor(x, device=self.device) for x in (self.mean, self.std)]

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Yields this process's part of the batches."""

    def to_batch(self, pixels: Tensor, labels: Tensor, indices: Tensor) -> Batch:
        """Copies images (N, 3, S, S) uint8 and the rest to the device, and normalises there."""
        pixels, labels, indices = (
            x.to(self.device, non_blocking=True) for x in (pixels, labels, indices)
        )
        return Batch(normalise(pixels, *self._statistics), labels, indices)


@dataclass(eq=False)
class TrainLoader(BatchLoader):
    """Base of the loaders of endless shuffled and augmented batches.

    A batch is a function of the seed and the iteration alone. Its ``batch_size`` images are divided
    among all processes.

    Attributes:
        start_iter: the first iteration; read when iteration starts.
        seed: a resumed run sets its checkpoint's before iteration starts.

    Raises:
        ValueError: a batch size that is no multiple of the number of processes.
    """

    _: KW_ONLY
    flip: bool = True  # mirror half of the images
    seed: int = 0  # 0 or more
    start_iter: int = 0

    def __post_init__(self) -> None:
        """Finds this process's part of a batch."""
        super().__post_init__()
        share_of_batch("SOLVER.IMS_PER_BATCH", self.batch_size, self.world_size)
        part = rank_range(self.batch_size, self.rank, self.world_size)
        self.part = slice(part.start, part.stop)

    def rank_order(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Returns epochs and positions (int64) of this process's images of an iteration."""
        epochs, positions = batch_order(len(self.images), self.seed, self.batch_size, iteration)
        return epochs[self.part], positions[self.part]


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one CPU thread, as workers of PyTorch's loader do.

    A second one gains little for a batch of small images. On a busy machine every operation waits
    for it: 1,000 images a second instead of 90,000.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(eq=False)
class InMemoryLoader(TrainLoader):
    """Augments whole batches on the device, to which all images are copied."""

    images: ImageSet
    _: KW_ONLY
    padding: int = 4  # zero pixels around an image, of which a crop of its own size is taken

    def __post_init__(self) -> None:
        """Copies the images."""
        super().__post_init__()
        self.images = self.images.to(self.device)

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from ``start_iter`` on."""
        for iteration in count(self.start_iter):
            yield self.batch(iteration)

    @one_thread()
    def batch(self, iteration: int) -> Batch:
        """Returns this process's part of the batch of an iteration, counted from 0."""
        _, positions = self.rank_order(iteration)
        # Drawn for the batches of all processes, so that their number has no effect.
        generator = seeded_generator(self.seed, "augmentation", iteration)
        crops = draw_crops(self.batch_size, self.padding, self.flip, generator)
        positions = positions.to(self.device, non_blocking=True)
        # index_select copies whole images, indexing single pixels: 8 times as fast
        pixels = self.images.images.index_select(0, positions)
        pixels = crop_and_mirror(pixels, crops[:, self.part], self.padding)
        return self.to_batch(pixels, self.images.labels[positions], positions)


@dataclass(eq=False)
class StreamingLoader(TrainLoader):
    """Decodes and augments images in worker processes, whose number does not change batches.

    The augmentation of an image depends only on the seed, the epoch and its position.
    """

    images: ImageFiles
    _: KW_ONLY
    max_unreadable: int = 0  # different files that may be skipped before it is an error

    def __post_init__(self) -> None:
        """Initialises the count of unreadable files."""
        super().__post_init__()
        self.unreadable = UnreadableImages(self.max_unreadable)

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from ``start_iter`` on; raises a ValueError for too many bad files."""
        # The sampler's keys are (epoch, position for the seed, index into the images).
        mapper = partial(decode, train_transform(self.size, self.flip))
        batches = seeded_batches(
            SeededDataset(self.images, mapper, self.seed, "augmentation"),
            self._keys_from,
            self.start_iter,
            self.unreadable,
            collate=collate,
            timeout=self.timeout,
            **self.decoding,
        )
        yield from (self.to_batch(*batch) for batch in batches)

    def _keys_from(self, start: int) -> Iterator[list[tuple[int, int, int]]]:
        for iteration in count(start):
            epochs, positions = (x.tolist() for x in self.rank_order(iteration))
            yield list(zip(epochs, positions, positions, strict=True))


@dataclass(eq=False)
class EvaluationLoader(BatchLoader):
    """Yields this process's share of the images in order, once, without augmentation.

    ``batch_size`` is the largest number of images in a batch of this process.
    """

    def __post_init__(self) -> None:
        """Cuts the share into batches."""
        super().__post_init__()
        share = rank_range(len(self.images), self.rank, self.world_size)
        starts = range(0, len(share), self.batch_size)
        self.positions = [share[start : start + self.batch_size] for start in starts]
        self.decoded: RestartingLoader | None = None
        if isinstance(self.images, ImageFiles):
            loader: Any = DataLoader(
                MapDataset(self.images, partial(decode, evaluation_transform(self.size))),
                batch_sampler=self.positions,  # type: ignore[arg-type]
                collate_fn=collate,
                generator=torch.Generator(),  # does not draw from the default one
                **self.decoding,
            )
            self.decoded = RestartingLoader(loader, self.timeout)

    def __len__(self) -> int:
        """Returns the number of batches of this process."""
        return len(self.positions)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches.

        Raises:
            ValueError: an image that cannot be read: skipping it would change the accuracy.
        """
        if self.decoded is not None:
            yield from (self.to_batch(*batch) for batch in self.decoded)
            return
        assert isinstance(self.images, ImageSet)
        for positions in self.positions:
            part, indices = slice(positions.start, positions.stop), torch.tensor(positions)
            yield self.to_batch(self.images.images[part], self.images.labels[part], indices)


def train_transform(size: int, flip: bool) -> Transform:
    """Builds ImageNet's augmentation: a crop of random size and shape, and a random flip."""
    mirror = [T.RandomHorizontalFlip()] if flip else []
    transform: Transform = T.Compose([T.RandomResizedCrop(size), *mirror, T.PILToTensor()])
    return transform


def evaluation_transform(size: int) -> Transform:
    """Builds ImageNet's evaluation transform: a centre crop, 224 of a shorter side of 256."""
    resize = T.Resize(evaluation_resize(size))
    transform: Transform = T.Compose([resize, T.CenterCrop(size), T.PILToTensor()])
    return transform


def evaluation_resize(size: int) -> int:
    """Returns the shorter side to which an image is resized before the centre crop."""
    return round(size * 256 / 224)


def decode(transform: Transform, record: dict[str, Any]) -> Decoded:
    """Reads an image; raises a ValueError that names an unreadable file."""
    return transform(open_image(record["file_name"])), record["label"], record["position"]


def collate(images: list[Decoded]) -> tuple[Tensor, ...]:
    """Returns pixels (N, 3, S, S), labels and positions (N,)."""
    pixels, labels, positions = zip(*images, strict=True)
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(positions)
