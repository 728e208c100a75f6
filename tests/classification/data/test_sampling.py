"""The order of the images is a function of the seed and the iteration."""

import pytest
import torch

from classification.data.sampling import batch_order, epoch_order


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (12, 4), (3, 7), (1, 1)])
def test_batches_are_the_epochs_one_after_the_other(count: int, batch_size: int) -> None:
    batches = [batch_order(count, 3, batch_size, iteration) for iteration in range(2 * count)]
    epochs, indices = map(torch.cat, zip(*batches, strict=True))
    assert len(indices) == 2 * batch_size * count
    for epoch in range(2 * batch_size):
        part = indices[epoch * count : (epoch + 1) * count]
        assert part.sort().values.tolist() == list(range(count))
        assert torch.equal(part, epoch_order(count, 3, epoch))
    assert torch.equal(epochs, torch.arange(2 * batch_size).repeat_interleave(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
