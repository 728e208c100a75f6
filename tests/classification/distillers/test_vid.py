"""VID against torch's Gaussian likelihood."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from classification.distillers import Distiller
from classification.models import Features

Make = Callable[..., Distiller]


def test_terms_are_gaussian_likelihoods_of_the_teachers_maps(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    distiller: Any = make_distiller("VID", "VID.INIT_VARIANCE", 0.7)
    terms = distiller(student, teacher, labels, indices)
    assert list(terms) == ["stage1", "stage2", "stage3"]
    sizes = {"stage1": 4, "stage2": 4, "stage3": 2}
    for i, (name, side) in enumerate(sizes.items()):
        x, y = (F.adaptive_avg_pool2d(f.maps[i + 1], side) for f in (student, teacher))
        mean, _ = distiller.regressors[i](x)
        variance = torch.full_like(mean, 0.7)
        expected = F.gaussian_nll_loss(mean, y, variance)  # (.. / variance + log variance) / 2
        torch.testing.assert_close(terms[name], expected, rtol=1e-6, atol=0)


def test_the_best_likelihood_is_that_of_the_exact_mean(make_distiller: Make) -> None:
    """At mean = map the loss is log(variance) / 2: log(5) / 2 at the start."""
    distiller: Any = make_distiller("VID")
    mean, variance = distiller.regressors[0](torch.randn(2, 3, 4, 4, dtype=torch.float64))
    loss = distiller.loss((mean, variance), mean)
    assert loss.item() == pytest.approx(math.log(5.0) / 2, rel=1e-6)


def test_variances_are_trained(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    distiller: Any = make_distiller("VID")
    sum(distiller(student, teacher, labels, indices).values()).backward()
    assert all(regressor.scale.grad.abs().min() > 0 for regressor in distiller.regressors)
