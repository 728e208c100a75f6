"""Sinkhorn's plan against its optimality conditions and against the exact transport."""

from itertools import permutations

import pytest
import torch

from classification.distillers.transport import transport_cost, transport_plan


def random_cost(n: int, p: int) -> torch.Tensor:
    return torch.rand(n, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (4, 7)])
def test_plan_has_the_margins_and_the_form_of_the_minimum(size: tuple[int, int]) -> None:
    """The minimum is the one plan of these margins with log pi + cost / entropy = a_i + b_j."""
    cost = random_cost(*size)
    plan = transport_plan(cost, 0.2, iterations=500)
    n, p = size
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((p,), 1 / p, dtype=torch.float64))
    sums = plan.log() + cost / 0.2
    mixed = sums - sums[:1] - sums[:, :1] + sums[:1, :1]
    torch.testing.assert_close(mixed, torch.zeros_like(mixed))


def test_little_entropy_gives_the_best_assignment() -> None:
    cost = random_cost(5, 5)
    best = min(sum(cost[i, j].item() for i, j in enumerate(p)) for p in permutations(range(5)))
    assert transport_plan(cost, 1e-3, 20000).mul(cost).sum().item() == pytest.approx(best / 5, 1e-3)


def test_gradient_is_that_of_the_regularised_minimum() -> None:
    cost, entropy, step = random_cost(3, 4).requires_grad_(), 0.5, 1e-5

    def minimum(cost: torch.Tensor) -> float:
        plan = transport_plan(cost, entropy, 500)
        return (plan * cost + entropy * plan * plan.log()).sum().item()

    transport_cost(cost, entropy).backward()
    assert cost.grad is not None
    for i, j in ((0, 0), (2, 3)):
        up, down = cost.detach().clone(), cost.detach().clone()
        up[i, j] += step
        down[i, j] -= step
        slope = (minimum(up) - minimum(down)) / (2 * step)
        assert cost.grad[i, j].item() == pytest.approx(slope, rel=1e-4)


def test_large_costs_over_a_small_entropy_stay_finite() -> None:
    assert transport_cost(1e4 * random_cost(6, 6).float(), 1e-3).isfinite()
