"""A held-out part is disjoint, stratified and the same each time."""

import pytest
import torch

from classification.data import ImageFiles, ImageSet, hold_out
from classification.data.images import stratified_order


def numbered(class_sizes: list[int]) -> ImageSet:
    """Every image's pixels are its own number; classes mixed."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(class_sizes)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2)
    return ImageSet(images, labels, [str(label) for label in range(len(class_sizes))])


@pytest.mark.parametrize("count", [1, 10, 33, 99])
def test_parts_are_disjoint_complete_and_stratified(count: int) -> None:
    whole = numbered([50, 30, 20])
    train, held_out = hold_out(whole, count, seed=1)
    assert (len(train), len(held_out)) == (100 - count, count)
    numbers = [part.images[:, 0, 0, 0].long() for part in (train, held_out)]
    assert torch.cat(numbers).sort().values.tolist() == list(range(100))
    for part, own in zip((train, held_out), numbers, strict=True):
        assert torch.equal(part.labels, whole.labels[own])
        assert own.tolist() == sorted(own.tolist())
    shares = torch.bincount(held_out.labels, minlength=3)
    assert ((shares - count * torch.tensor([0.5, 0.3, 0.2])).abs() <= 1).all()


def test_a_balanced_set_gives_every_class_the_same() -> None:
    _, held_out = hold_out(numbered([20] * 10), 50)
    assert torch.bincount(held_out.labels).tolist() == [5] * 10


def test_same_seed_same_split() -> None:
    whole = numbered([40, 40])
    first, again, other = (hold_out(whole, 20, seed)[1].images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_class_without_images_is_no_trouble() -> None:
    order = stratified_order(torch.tensor([3, 0, 3, 0]), seed=0)
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_files_are_held_out_too() -> None:
    files = ImageFiles(["a", "b", "c", "d"], torch.tensor([0, 1, 0, 1]), ["x", "y"])
    train, held_out = hold_out(files, 2)
    assert sorted([*train.paths, *held_out.paths]) == ["a", "b", "c", "d"]
    assert held_out.labels.tolist() == [{"a": 0, "b": 1, "c": 0, "d": 1}[x] for x in held_out.paths]


@pytest.mark.parametrize("count", [-1, 0, 8, 9])
def test_an_empty_part_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} images to hold out, expected 1 to 7 of 8"):
        hold_out(numbered([4, 4]), count)
