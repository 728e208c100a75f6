"""KD, DKD and DIST against loops over the formulas of the papers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classification.distillers import Distiller
from classification.models import Features
from fam_det.core.peer_losses import decoupled_divergences

Make = Callable[..., Distiller]


def probabilities(logits: Tensor, temperature: float) -> Any:
    exponentials = np.exp(logits.detach().numpy() / temperature)
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_divergence_by_its_definition(
    make_distiller: Make,
    student: Features,
    teacher: Features,
    labels: Tensor,
    indices: Tensor,
    temperature: float,
) -> None:
    q = probabilities(student.logits, temperature)
    p = probabilities(teacher.logits, temperature)
    expected = temperature**2 * np.mean([sum(b * np.log(b / a)) for a, b in zip(q, p, strict=True)])
    distiller = make_distiller("KD", "KD.TEMPERATURE", temperature)
    terms = distiller(student, teacher, labels, indices)
    assert list(terms) == ["kd"]
    assert terms["kd"].item() == pytest.approx(expected, rel=1e-12)


def test_dist_is_one_minus_numpys_correlation(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    q, p = (probabilities(x.logits, 3.0) for x in (student, teacher))
    rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)]
    columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)]
    distiller = make_distiller("DIST", "DIST.TEMPERATURE", 3.0, "DIST.BETA", 0.5)
    terms = distiller(student, teacher, labels, indices)
    assert terms["inter"].item() == pytest.approx(9 * (1 - np.mean(rows)), rel=1e-9)
    assert terms["intra"].item() == pytest.approx(9 * (1 - np.mean(columns)), rel=1e-9)
    assert distiller.term_weights == {"inter": 0.5, "intra": 2.0}


def test_terms_are_the_divergences_by_their_definition(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    temperature = 4.0
    target = others = 0.0
    for z, w, label in zip(student.logits, teacher.logits, labels.tolist(), strict=True):
        q, p = (x / temperature for x in (z, w))
        q, p = q.exp() / q.exp().sum(), p.exp() / p.exp().sum()
        q_t, p_t = q[label].item(), p[label].item()
        pairs = ((q_t, p_t), (1 - q_t, 1 - p_t))
        target += sum(b * torch.log(torch.tensor(b / a)).item() for a, b in pairs)
        for i in range(len(q)):
            if i != label:
                a, b = q[i].item() / (1 - q_t), p[i].item() / (1 - p_t)
                others += b * torch.log(torch.tensor(b / a)).item()
    scale = temperature**2 / len(labels)
    terms = make_distiller("DKD")(student, teacher, labels, indices)
    assert terms["target"].item() == pytest.approx(scale * target, rel=1e-6)
    assert terms["others"].item() == pytest.approx(scale * others, rel=1e-6)


def test_hintons_divergence_is_tckd_plus_the_teachers_doubt_times_nckd() -> None:
    """Equation 5 of the paper, one image: KL = TCKD + (1 - p_target) NCKD."""
    torch.manual_seed(0)
    z, w = torch.randn(2, 1, 7, dtype=torch.float64)
    target, others = decoupled_divergences(z, w, torch.tensor([3]))
    whole = F.kl_div(z.log_softmax(1), w.softmax(1), reduction="batchmean")
    torch.testing.assert_close(target + (1 - w.softmax(1)[0, 3]) * others, whole)


def test_certain_networks_give_finite_losses_and_gradients() -> None:
    z = torch.tensor([[1e4, 0.0, -1e4], [0.0, 500.0, 1.0]], requires_grad=True)
    losses = decoupled_divergences(z, torch.tensor([[0.0, 1e4, 0.0]] * 2), torch.tensor([0, 2]))
    sum(losses).backward()  # type: ignore[union-attr]
    assert all(loss.isfinite() for loss in losses)
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_two_classes_have_no_others() -> None:
    z, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])
    _, others = decoupled_divergences(z, w, torch.tensor([0]))
    assert others == 0
