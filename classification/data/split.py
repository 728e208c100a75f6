"""Parts of a set of images with the same share of every class."""

from typing import TypeVar

import torch
from torch import Tensor

from classification.data.images import AnyImages, ImageFiles, ImageSet
from classification.data.shuffle import seeded_generator

Images = TypeVar("Images", ImageSet, ImageFiles, AnyImages)


def hold_out(images: Images, count: int, seed: int = 0) -> tuple[Images, Images]:
    """Split off ``count`` images, the same share of every class up to one image.

    Args:
        images: the set.
        count: of images to hold out, 1 to N - 1.
        seed: 0 or more; the same seed gives the same split.

    Returns:
        The images that are left, and those held out; both in the order of the set.

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
    """A random order, (N,) int64, of which every beginning has the same share of every class.

    The r-th image of a class of n has the place (r + 1/2) / n; images are sorted by place, those
    at the same place at random.
    """
    order = torch.randperm(len(labels), generator=seeded_generator(seed, "split"))
    by_class = order[labels[order].sort(stable=True).indices]  # (N,), random within a class
    sizes = torch.bincount(labels)  # (K,)
    firsts = sizes.cumsum(0) - sizes  # (K,), where each class begins in by_class
    own = labels[by_class]
    ranks = torch.arange(len(labels)) - firsts[own]
    places = torch.empty(len(labels), dtype=torch.float64)
    places[by_class] = (ranks.double() + 0.5) / sizes[own]
    return order[places[order].sort(stable=True).indices]
