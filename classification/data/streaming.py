"""Batches of images that stay on disk, decoded by worker processes in torchvision's own pipeline.

Legend: N batch, S height and width in pixels.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as T

from classification.data.augment import normalise
from classification.data.folder import open_image
from classification.data.images import Batch, ImageFiles
from classification.data.loader import BatchLoader, EndlessLoader, OrderedLoader
from fam_det.data.dataset import SeededDataset
from fam_det.data.images import UnreadableImages
from fam_det.data.loader import RestartingLoader, seeded_batches

from detectron2.data import MapDataset

Transform: TypeAlias = Callable[[Image.Image], Tensor]  # to (3, S, S) uint8
Decoded: TypeAlias = tuple[Tensor, int, int]  # pixels (3, S, S) uint8, label, position


def train_transform(size: int, flip: bool) -> Transform:
    """Builds ImageNet's augmentation: a crop of random size and shape, half of them mirrored."""
    mirror = [T.RandomHorizontalFlip()] if flip else []
    transform: Transform = T.Compose([T.RandomResizedCrop(size), *mirror, T.PILToTensor()])
    return transform


def evaluation_transform(size: int) -> Transform:
    """Builds ImageNet's evaluation: the shorter side at 256 for crops of 224 at the centre."""
    resize = T.Resize(round(size * 256 / 224))
    transform: Transform = T.Compose([resize, T.CenterCrop(size), T.PILToTensor()])
    return transform


def decode(transform: Transform, record: dict[str, Any]) -> Decoded:
    """Reads an image; raises a ValueError that names the file if it cannot."""
    return transform(open_image(record["file_name"])), record["label"], record["position"]


def collate(images: list[Decoded]) -> tuple[Tensor, ...]:
    """Returns pixels (N, 3, S, S), labels and positions (N,)."""
    pixels, labels, positions = zip(*images, strict=True)
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(positions)


class StreamingLoader(EndlessLoader):
    """Decodes and augments images in worker processes, whose number changes no batch.

    The random draws of an image depend on the seed, the epoch and its position alone.

    Args:
        files: the images.
        batch_size: images in a batch, over all processes.
        size: height and width of the crops in pixels.
        num_workers: processes that decode; 0 decodes in this one.
        timeout: seconds after which a worker counts as stuck; 0 for never.
        max_unreadable: different files that may be skipped before it is an error.
        options: of :class:`EndlessLoader`.
    """

    def __init__(
        self,
        files: ImageFiles,
        batch_size: int,
        *,
        size: int,
        num_workers: int = 4,
        timeout: float = 0.0,
        max_unreadable: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(len(files), batch_size, **options)
        self.files = files
        self.transform = train_transform(size, self.flip)
        self.unreadable = UnreadableImages(max_unreadable)
        self.workers: dict[str, Any] = {"num_workers": num_workers, "timeout": timeout}

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from ``start_iter`` on; raises a ValueError for too many bad files."""
        mapper = partial(decode, self.transform)
        batches = seeded_batches(
            SeededDataset(self.files, mapper, self.seed, "augmentation"),
            self._keys_from,
            self.start_iter,
            self.unreadable,
            collate=collate,
            pin_memory=self.mean.device.type == "cuda",
            **self.workers,
        )
        yield from (_on_device(self, *batch) for batch in batches)

    def _keys_from(self, start: int) -> Iterator[list[tuple[int, int, int]]]:
        for iteration in count(start):
            epochs, positions = (x.tolist() for x in self.own_order(iteration))
            yield list(zip(epochs, positions, positions, strict=True))


class StreamingEvaluationLoader(OrderedLoader):
    """Decodes images in worker processes; its arguments are those of :class:`StreamingLoader`.

    ``batch_size`` is the largest of this process, the options are those of :class:`OrderedLoader`.
    """

    def __init__(
        self,
        files: ImageFiles,
        batch_size: int,
        *,
        size: int,
        num_workers: int = 4,
        timeout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(len(files), batch_size, **options)
        loader: Any = DataLoader(
            MapDataset(files, partial(decode, evaluation_transform(size))),
            batch_sampler=self.positions,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=self.mean.device.type == "cuda",
            generator=torch.Generator(),  # leaves the default one alone
        )
        self.batches = RestartingLoader(loader, timeout)

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches, in order.

        Raises:
            ValueError: an image that cannot be read; without it the accuracy would be another.
        """
        yield from (_on_device(self, *batch) for batch in self.batches)


def _on_device(loader: BatchLoader, *decoded: Tensor) -> Batch:
    device = loader.mean.device
    pixels, labels, indices = (x.to(device, non_blocking=True) for x in decoded)
    return Batch(normalise(pixels, loader.mean, loader.std), labels, indices)
