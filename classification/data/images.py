"""Sets of labelled images, in memory or as files, and batches of them.

Legend: N images, H and W height and width in pixels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images ready for a network, all on its device.

    Attributes:
        images: (N, 3, H, W) float32, RGB, normalised.
        labels: (N,) int64 in 0..K-1.
        indices: (N,) int64, position of each image in the set it comes from.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory.

    Attributes:
        images: (N, 3, H, W) uint8, RGB.
        labels: (N,) int64 in 0..K-1.
        classes: name of each class, K.
    """

    images: Tensor
    labels: Tensor
    classes: Sequence[str]

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.labels)

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at these positions, (M,) int64."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on a device; itself where it is there already."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled images that stay on disk until they are used.

    Attributes:
        paths: an image file each, N.
        labels: (N,) int64 in 0..K-1.
        classes: name of each class, K.
    """

    paths: Sequence[str]
    labels: Tensor
    classes: Sequence[str]

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.labels)

    def subset(self, indices: Tensor) -> "ImageFiles":
        """The files at these positions, (M,) int64."""
        paths = [self.paths[index] for index in indices.tolist()]
        return replace(self, paths=paths, labels=self.labels[indices])


AnyImages: TypeAlias = ImageSet | ImageFiles


def share_of_rank(count: int, rank: int, world_size: int) -> range:
    """The positions of ``count`` things that a process takes: contiguous, as equal as possible."""
    return range(rank * count // world_size, (rank + 1) * count // world_size)
