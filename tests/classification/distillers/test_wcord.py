"""WCoRD against loops over its two forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classification.distillers import Distiller
from classification.distillers.transport import transport_plan
from classification.distillers.wcord import LipschitzEmbedding
from classification.models import Features

Make = Callable[..., Distiller]
NEGATIVES = 9


def test_two_steps_equal_the_naive_ones(
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


def test_a_loaded_checkpoint_goes_on_as_the_run_would_have(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    unbroken = make_distiller("WCoRD")
    unbroken(student, teacher, labels, indices)
    resumed = make_distiller("WCoRD")
    resumed.load_state_dict(unbroken.state_dict())
    losses = []
    for distiller in (unbroken, resumed):
        torch.manual_seed(7)
        losses.append(torch.stack([*distiller(student, teacher, labels, indices).values()]))
    assert torch.equal(*losses)


def test_weights_are_the_papers(make_distiller: Make) -> None:
    assert make_distiller("WCoRD").term_weights == {"global": 0.8, "local": 0.05}
