"""Suite ``data``: augmented batches of CIFAR-like images, against torchvision and a DataLoader.

The work is a random crop out of 4 pixels of padding, a random flip and the normalisation, for
batches of 64. A row's time is that of ``BATCHES`` batches.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from classification.data.images import ImageSet
from classification.data.loader import InMemoryLoader
from tools.benchmark.measuring import Case

IMAGES, BATCH, BATCHES = 10_000, 64, 150
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def cases(device: str) -> Iterator[Case]:
    """Yields one case."""
    project, reference = build_loaders(device, workers=2)
    yield Case(
        name=f"{BATCHES * BATCH:,} images of 32x32, crop, flip, normalise",
        project=lambda: take(project, device),
        reference=lambda: take(reference, device),
        time_goal=1 / 8,
        memory=False,
        seconds=20.0,
    )


def build_loaders(device: str, workers: int) -> tuple[InMemoryLoader, DataLoader[Any]]:
    """Builds the project's loader and the reference of the same images, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    image_set = ImageSet(images, torch.arange(IMAGES) % 100, [str(i) for i in range(100)])
    project = InMemoryLoader(image_set, BATCH, mean=MEAN, std=STD, device=device)
    reference = DataLoader(
        _Pictures(image_set), BATCH, True, num_workers=workers, persistent_workers=workers > 0
    )
    return project, reference


def take(loader: Any, device: str) -> None:
    """Draws ``BATCHES`` batches onto the device."""
    for batch in islice(loader, BATCHES):
        batch[0].to(device)


class _Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Holds and transforms images as torchvision's CIFAR data sets do."""

    def __init__(self, image_set: ImageSet) -> None:
        self.images = image_set.images.permute(0, 2, 3, 1).numpy()
        self.labels = image_set.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]
