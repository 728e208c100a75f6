"""CRD and WCoRD against loops over their definitions; their negatives and transport."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classification.distillers import Distiller
from classification.distillers.contrastive import (
    LipschitzEmbedding,
    NegativeSampler,
    transport_cost,
    transport_plan,
)
from classification.models import Features

Make = Callable[..., Distiller]
NEGATIVES, IMAGES = 9, 23


class NaiveCRD:
    """One image, one negative at a time, equation 9 to 18 of the paper as RepDistiller has them."""

    def __init__(self, distiller: Any) -> None:
        self.distiller = distiller
        self.memories = [distiller.contrast.memory_v1.clone(), distiller.contrast.memory_v2.clone()]
        self.z: list[float | None] = [None, None]

    def __call__(
        self, student: Features, teacher: Features, indices: Tensor, negatives: Tensor
    ) -> float:
        s = F.normalize(
            student.pooled @ self.distiller.embed_student.weight.T
            + self.distiller.embed_student.bias
        )
        t = F.normalize(
            teacher.pooled @ self.distiller.embed_teacher.weight.T
            + self.distiller.embed_teacher.bias
        )
        s, t = s.detach(), t.detach()
        temperature = self.distiller.contrast.params[1].item()
        loss = 0.0
        for own, other, side in ((s, self.memories[1], 0), (t, self.memories[0], 1)):
            scores = [
                [math.exp(v @ other[j] / temperature) for j in (i, *row)]
                for v, i, row in zip(own, indices.tolist(), negatives.tolist(), strict=True)
            ]
            mean = sum(map(sum, scores)) / (len(scores) * (1 + NEGATIVES))
            self.z[side] = self.z[side] or IMAGES * mean
            c = NEGATIVES / IMAGES
            for positive, *rest in [[x / self.z[side] for x in row] for row in scores]:
                terms = [positive / (positive + c), *(c / (x + c) for x in rest)]
                loss -= sum(map(math.log, terms)) / len(scores)
        for memory, own in zip(self.memories, (s, t), strict=True):
            for i, v in zip(indices.tolist(), own, strict=True):
                memory[i] = F.normalize(0.5 * memory[i] + 0.5 * v, dim=0)
        return loss


def test_three_steps_of_crd_equal_the_naive_ones(
    make_distiller: Make,
    make_features: Callable[..., Features],
    shapes: Any,
    labels: Tensor,
    indices: Tensor,
) -> None:
    distiller: Any = make_distiller("CRD", "CRD.DIM", 4)
    naive = NaiveCRD(distiller)
    for step in range(3):
        student = make_features(shapes["student"], 10 + step, grad=True)
        teacher = make_features(shapes["teacher"], 20 + step)
        torch.manual_seed(step)
        loss = distiller(student, teacher, labels, indices)["crd"]
        torch.manual_seed(step)
        negatives = distiller.sampler(labels, NEGATIVES)
        assert loss.item() == pytest.approx(naive(student, teacher, indices, negatives), rel=1e-5)
        torch.testing.assert_close(distiller.contrast.memory_v1, naive.memories[0])
        torch.testing.assert_close(distiller.contrast.memory_v2, naive.memories[1])


@pytest.mark.parametrize("name", ["CRD", "WCoRD"])
def test_a_loaded_checkpoint_continues_as_the_run_would_have(
    make_distiller: Make,
    student: Features,
    teacher: Features,
    labels: Tensor,
    indices: Tensor,
    name: str,
) -> None:
    unbroken: Any = make_distiller(name)
    unbroken(student, teacher, labels, indices)
    resumed = make_distiller(name)
    resumed.load_state_dict(unbroken.state_dict())
    losses = []
    for distiller in (unbroken, resumed):
        torch.manual_seed(7)
        losses.append(torch.stack([*distiller(student, teacher, labels, indices).values()]))
    assert torch.equal(*losses)
    assert not any(buffer.requires_grad for buffer in unbroken.buffers())


def test_more_negatives_than_images_are_drawn_again(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    distiller = make_distiller("CRD", "CRD.NEGATIVES", 500)
    assert distiller(student, teacher, labels, indices)["crd"].isfinite()


def test_two_steps_of_wcord_equal_the_naive_ones(
    make_distiller: Make,
    make_features: Callable[..., Features],
    shapes: Any,
    labels: Tensor,
    indices: Tensor,
) -> None:
    distiller: Any = make_distiller("WCoRD", "WCORD.DIM", 4, "WCORD.MOMENTUM", 0.25).eval()
    memories = [torch.zeros(23, 4, dtype=torch.float64) for _ in range(2)]
    for step in range(2):
        student = make_features(shapes["student"], 10 + step)
        teacher = make_features(shapes["teacher"], 20 + step)
        torch.manual_seed(step)
        terms = distiller(student, teacher, labels, indices)
        torch.manual_seed(step)
        negatives = distiller.sampler(labels, NEGATIVES)
        s = F.normalize(student.pooled) @ distiller.embed_student.linear.weight.T
        t = F.normalize(teacher.pooled) @ distiller.embed_teacher.linear.weight.T
        dual = 0.0
        for i, row in enumerate(negatives.tolist()):
            dual += (t[i] @ s[i]).item()
            dual -= sum((t[i] @ memories[0][j]).item() for j in row) / (2 * NEGATIVES)
            dual -= sum((memories[1][j] @ s[i]).item() for j in row) / (2 * NEGATIVES)
        assert terms["global"].item() == pytest.approx(-dual / len(negatives), rel=1e-9)
        cost = torch.stack(
            [torch.stack([1 - F.cosine_similarity(a, b, dim=0) for b in s]) for a in t]
        )
        local = (transport_plan(cost, 0.1) * cost).sum()
        torch.testing.assert_close(terms["local"], local)
        for memory, own in zip(memories, (s, t), strict=True):
            memory[indices] = 0.25 * memory[indices] + 0.75 * own.detach()
        torch.testing.assert_close(distiller.memory_student, memories[0])
        torch.testing.assert_close(distiller.memory_teacher, memories[1])


def test_critic_is_1_lipschitz_in_each_feature() -> None:
    torch.manual_seed(0)
    embed_s, embed_t = LipschitzEmbedding(6, 4).train(), LipschitzEmbedding(8, 4).train()
    x, y = torch.randn(500, 6), torch.randn(500, 8)
    for _ in range(50):  # power iterations
        embed_s(x), embed_t(y)
    embed_s.eval(), embed_t.eval()
    near = x + 0.1 * torch.randn_like(x)
    change = ((embed_s(x) - embed_s(near)) * embed_t(y)).sum(1).abs()
    distance = (F.normalize(x) - F.normalize(near)).norm(dim=1)
    assert (change <= distance * (1 + 1e-4)).all()


def test_wcords_weights_are_the_papers(make_distiller: Make) -> None:
    assert make_distiller("WCoRD").term_weights == {"global": 0.8, "local": 0.05}


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
    assert transport_plan(cost, 1e-3, 4000).mul(cost).sum().item() == pytest.approx(best / 5, 1e-3)


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
