"""Batches of images that stay on disk, decoded by worker processes in torchvision's own pipeline.

Legend: N batch, S height and width in pixels.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as T

from classification.data.augment import normalise
from classification.data.folder import open_image
from classification.data.images import Batch, ImageFiles
from classification.data.loader import EndlessLoader, OrderedLoader
from fam_det.data.dataset import TRIES
from fam_det.data.images import UnreadableImages
from fam_det.data.loader import load_batches, restarting_batches
from fam_det.data.seeding import derive_seed

Key: TypeAlias = tuple[int, int]  # epoch, position in the set
Transform: TypeAlias = Callable[[Image.Image], Tensor]  # to (3, S, S) uint8
Reasons: TypeAlias = dict[str, str]  # why a file could not be read


class Decoded(NamedTuple):
    """An image, and what was wrong with those that should have been in its place."""

    pixels: Tensor  # (3, S, S) uint8
    label: int
    position: int
    unreadable: Reasons


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


class DecodedImages(Dataset[Decoded]):
    """Decoded images by epoch and position, with their label and position.

    The random draws of one depend on the seed, the epoch and the position alone, not on the
    process that decodes it or on what that did before: the transform draws from PyTorch's default
    generator. Where an image cannot be read, so many others as ``tries`` says may be tried in a
    row.
    """

    def __init__(
        self, files: ImageFiles, transform: Transform, seed: int, *, tries: int = 1
    ) -> None:
        self.files = files
        self.transform = transform
        self.seed = seed
        self.tries = tries

    def __getitem__(self, key: Key) -> Decoded:
        """Returns the image of a key, or another where it cannot be read."""
        epoch, index = key
        reasons: Reasons = {}
        with torch.random.fork_rng(devices=[]):
            seed = derive_seed(self.seed, "augmentation", epoch, index)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs too
            for left in reversed(range(self.tries)):
                path = self.files.paths[index]
                try:
                    image = open_image(path)
                    break
                except ValueError as error:
                    if not left:
                        raise
                    reasons[path] = str(error).removeprefix(f"{path}: ")
                index = int(torch.randint(len(self.files), ()))
            pixels = self.transform(image)
        return Decoded(pixels, int(self.files.labels[index]), index, reasons)


def collate(images: list[Decoded]) -> tuple[Tensor, Tensor, Tensor, Reasons]:
    """Returns pixels (N, 3, S, S), labels and positions (N,), and what could not be read."""
    pixels, labels, indices, reasons = zip(*images, strict=True)
    unreadable = {path: reason for image in reasons for path, reason in image.items()}
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(indices), unreadable


class StreamingLoader(EndlessLoader):
    """Decodes and augments images in worker processes, whose number changes no batch.

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
        self.images = DecodedImages(files, train_transform(size, self.flip), self.seed, tries=TRIES)
        self.unreadable = UnreadableImages(max_unreadable)
        self.workers = {"num_workers": num_workers, "timeout": timeout}

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from ``start_iter`` on."""
        self.images.seed = self.seed  # that of the checkpoint, in a resumed run
        for batch, reasons in restarting_batches(self._batches_from, self.start_iter):
            self.unreadable.add(reasons)
            yield batch

    def _batches_from(self, start: int) -> Iterator[tuple[Batch, Reasons]]:
        orders = map(self.own_order, count(start))
        keys = (list(zip(*(part.tolist() for part in order), strict=True)) for order in orders)
        return decoded_batches(self.images, keys, self.mean, self.std, **self.workers)


class StreamingEvaluationLoader(OrderedLoader):
    """Decodes images in worker processes.

    Arguments as of :class:`OrderedLoader` and of :class:`StreamingLoader`.
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
        self.images = DecodedImages(files, evaluation_transform(size), seed=0)
        self.workers = {"num_workers": num_workers, "timeout": timeout}

    def __iter__(self) -> Iterator[Batch]:
        """Yields the batches, in order."""
        # No image is skipped: without it the accuracy would be another.
        for batch, _ in restarting_batches(self._batches_from, 0):
            yield batch

    def _batches_from(self, start: int) -> Iterator[tuple[Batch, Reasons]]:
        keys = ([(0, index) for index in positions] for positions in self.positions[start:])
        return decoded_batches(self.images, keys, self.mean, self.std, **self.workers)


def decoded_batches(
    images: DecodedImages, keys: Iterable[list[Key]], mean: Tensor, std: Tensor, **workers: Any
) -> Iterator[tuple[Batch, Reasons]]:
    """Decodes a batch of images for each list of keys, in their order, with what was unreadable.

    The batches are normalised on the device of ``mean``. Nothing happens before the first is asked
    for.
    """
    device = mean.device
    pinned = device.type == "cuda"
    for pixels, *rest, unreadable in load_batches(
        images, keys, collate_fn=collate, pin_memory=pinned, **workers
    ):
        labels, indices = (value.to(device, non_blocking=True) for value in rest)
        pixels = pixels.to(device, non_blocking=True)
        yield Batch(normalise(pixels, mean, std), labels, indices), unreadable
