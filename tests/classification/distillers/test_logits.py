"""KD and DIST against loops over the formulas of the papers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from classification.distillers import Distiller
from classification.models import Features

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
