"""Negatives are of other classes, each as likely as any other."""

import pytest
import torch

from classification.distillers.negatives import NegativeSampler


def test_negatives_are_uniform_over_the_images_of_other_classes() -> None:
    train_labels = torch.tensor([2, 0, 0, 5, 2, 2, 0, 5, 0])  # no image of 1, 3 and 4
    sampler = NegativeSampler(train_labels)
    torch.manual_seed(0)
    drawn = sampler(torch.tensor([0, 5, 2]), 20000)
    assert drawn.shape == (3, 20000)
    for row, label in zip(drawn, (0, 5, 2), strict=True):
        others = (train_labels != label).nonzero().flatten()
        counts = row.bincount(minlength=len(train_labels))
        assert counts[train_labels == label].sum() == 0
        share = counts[others] / 20000
        torch.testing.assert_close(
            share, torch.full_like(share, 1 / len(others)), atol=0.01, rtol=0
        )


def test_torchs_seed_decides_them() -> None:
    sampler, labels = NegativeSampler(torch.arange(50)), torch.arange(4)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sampler(labels, 30))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_data_set_is_not_in_the_checkpoint() -> None:
    assert NegativeSampler(torch.arange(3)).state_dict() == {}


def test_one_class_is_an_error() -> None:
    with pytest.raises(ValueError, match="labels: got a training set of one class"):
        NegativeSampler(torch.ones(4, dtype=torch.int64))
