"""Sets of labelled images, in memory or as files, their parts, and batches of them.

Legend: N images, H and W height and width in pixels, K classes.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder

from classification.data.sampling import seeded_generator
from fam_det.data.images import error_reason, open_checked_image


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
    """Labelled images in memory."""

    images: Tensor  # (N, 3, H, W) uint8, RGB
    labels: Tensor  # (N,) int64 in 0..K-1
    classes: Sequence[str]  # name of each class, K

    def __len__(self) -> int:
        """Returns the number of images N."""
        return len(self.labels)

    def subset(self, indices: Tensor) -> "ImageSet":
        """Returns the images at these positions, (M,) int64."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> "ImageSet":
        """Returns the set on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled images that stay on disk until they are used."""

    paths: Sequence[str]  # an image file each, N
    labels: Tensor  # (N,) int64 in 0..K-1
    classes: Sequence[str]  # name of each class, K

    def __len__(self) -> int:
        """Returns the number of images N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns file, label and position of an image, as a record of Detectron2."""
        label = int(self.labels[index])
        return {"file_name": self.paths[index], "label": label, "position": index}

    def subset(self, indices: Tensor) -> "ImageFiles":
        """Returns the files at these positions, (M,) int64."""
        paths = [self.paths[index] for index in indices.tolist()]
        return replace(self, paths=paths, labels=self.labels[indices])


AnyImages: TypeAlias = ImageSet | ImageFiles
Images = TypeVar("Images", ImageSet, ImageFiles, AnyImages)


def hold_out(images: Images, count: int, seed: int = 0) -> tuple[Images, Images]:
    """Splits off ``count`` images, with the same share of every class up to one image.

    Args:
        images: the set.
        count: of images to hold out, 1 to N - 1.
        seed: 0 or more; the same seed gives the same split.

    Returns:
        The remaining images, and those held out; both in the order of the set.

    Raises:
        ValueError: a count that leaves one part empty.
    """
    if not 0 < count < len(images):
        raise ValueError(
            f"got {count} images to hold out, expected 1 to {len(images) - 1} of {len(images)}"
        )
    order = stratified_order(images.labels, seed)
    held_out, left = order[:count].sort().values, order[count:].sort().values
    return images.subset(left), images.subset(held_out)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Returns a random order (N,), int64, whose every prefix has the same share of each class.

    The r-th image of a class of n has the position (r + 1/2) / n; images are sorted by position,
    those at the same position at random.
    """
    order = torch.randperm(len(labels), generator=seeded_generator(seed, "split"))
    by_class = order[labels[order].sort(stable=True).indices]  # (N,), random within a class
    sizes = torch.bincount(labels)  # (K,)
    firsts = sizes.cumsum(0) - sizes  # (K,), where each class begins in by_class
    sorted_labels = labels[by_class]
    ranks = torch.arange(len(labels)) - firsts[sorted_labels]
    positions = torch.empty(len(labels), dtype=torch.float64)
    positions[by_class] = (ranks.double() + 0.5) / sizes[sorted_labels]
    return order[positions[order].sort(stable=True).indices]


def list_folder(root: str | Path) -> ImageFiles:
    """Lists the image files of ``root/<class>/``, classes and files sorted by name."""
    try:
        folder = ImageFolder(str(root))
    except OSError as error:
        raise ValueError(
            f"{root}: expected a folder with one folder of images a class: {error}"
        ) from error
    paths = [path for path, _ in folder.samples]
    return ImageFiles(paths, torch.tensor(folder.targets), folder.classes)


def load_folder(root: str | Path, size: int) -> ImageSet:
    """Reads the images of ``root/<class>/`` into memory, in several threads.

    An image of another size is scaled until its shorter side fits, and cropped at its centre.
    """
    files = list_folder(root)
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def load(index: int) -> None:
        images[index] = read_pixels(files.paths[index], size)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(load, range(len(files))):
            pass  # raises the first error
    return ImageSet(images, files.labels, files.classes)


def read_pixels(path: str, size: int) -> Tensor:
    """Reads an image file, scaled and cropped to (3, size, size) uint8, RGB."""
    image = open_image(path)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)


def open_image(path: str) -> Image.Image:
    """Reads an image file in RGB; like torchvision it ignores the EXIF orientation.

    Raises:
        ValueError: a file that is no image, or not safe to decode; the message names it.
    """
    try:
        with Path(path).open("rb") as stream, open_checked_image(stream) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # a broken file makes Pillow raise errors of many types
        raise ValueError(f"{path}: {error_reason(error, path)}") from error
