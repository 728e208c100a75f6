"""The order of the images is a function of the seed and the iteration."""

import pytest
import torch

from classification.data.shuffle import EndlessOrder, epoch_order, rank_part


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (12, 4), (3, 7), (1, 1)])
def test_batches_are_the_epochs_one_after_the_other(count: int, batch_size: int) -> None:
    order = EndlessOrder(count, batch_size, seed=3)
    epochs, indices = map(torch.cat, zip(*(order.batch(i) for i in range(2 * count)), strict=True))
    assert len(indices) == 2 * batch_size * count
    for epoch in range(2 * batch_size):
        part = indices[epoch * count : (epoch + 1) * count]
        assert part.sort().values.tolist() == list(range(count))
        assert torch.equal(part, epoch_order(count, 3, epoch))
    assert torch.equal(epochs, torch.arange(2 * batch_size).repeat_interleave(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_impossible_sizes_say_what_is_expected() -> None:
    with pytest.raises(ValueError, match="got 0 images"):
        EndlessOrder(0, 4, seed=0)
    with pytest.raises(ValueError, match="batch_size 0"):
        EndlessOrder(4, 0, seed=0)
    with pytest.raises(ValueError, match="got 64, expected a multiple of the 3 processes"):
        rank_part(64, 0, 3)
    with pytest.raises(ValueError, match="rank: got 2"):
        rank_part(64, 2, 2)
