"""AT, FitNet, VID and SP against loops over their definitions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.distillers import Distiller
from classification.distillers.maps import hint_regressor
from classification.models import Features

Make = Callable[..., Distiller]


def attention(feature_map: Any) -> Any:
    """(C, H, W) -> unit vector of H W."""
    a = (feature_map**2).mean(0).ravel()
    return a / np.sqrt((a**2).sum())


def pool_by_2(maps: Any) -> Any:
    return (
        maps[..., ::2, ::2] + maps[..., 1::2, ::2] + maps[..., ::2, 1::2] + maps[..., 1::2, 1::2]
    ) / 4


def test_terms_are_the_squared_differences_of_attention(
    make_distiller: Callable[..., Distiller],
    student: Features,
    teacher: Features,
    labels: Tensor,
    indices: Tensor,
) -> None:
    xs = [x.detach().numpy() for x in student.maps]
    ys = [y.numpy() for y in teacher.maps]
    # 8x8 against 4x4: the student's is pooled. 3x3 against 2x2: each pooled cell is the mean of a
    # 2x2 block of the teacher's.
    ys_last = (
        ys[3][..., :2, :2] + ys[3][..., 1:, :2] + ys[3][..., :2, 1:] + ys[3][..., 1:, 1:]
    ) / 4
    pairs = {
        "stage1": (pool_by_2(xs[1]), ys[1]),
        "stage2": (xs[2], ys[2]),
        "stage3": (xs[3], ys_last),
    }
    terms = make_distiller("AT")(student, teacher, labels, indices)
    assert list(terms) == list(pairs)
    for name, (x, y) in pairs.items():
        expected = np.mean([(attention(a) - attention(b)) ** 2 for a, b in zip(x, y, strict=True)])
        assert terms[name].item() == pytest.approx(expected, rel=1e-10)


def test_term_is_the_error_of_the_normalised_convolution(
    make_distiller: Callable[..., Distiller],
    student: Features,
    teacher: Features,
    labels: Tensor,
    indices: Tensor,
) -> None:
    distiller = make_distiller("FitNet")
    conv = next(m for m in distiller.modules() if isinstance(m, nn.Conv2d))
    x = F.conv2d(student.maps[2], conv.weight, conv.bias)
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    hint = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    terms = distiller(student, teacher, labels, indices)
    expected = (hint.clamp(min=0) - teacher.maps[2]).square().mean()
    assert list(terms) == ["stage2"]
    torch.testing.assert_close(terms["stage2"], expected)


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "kernel", "kind"),
    [
        ((8, 8), (4, 4), (3, 3), nn.Conv2d),
        ((4, 6), (8, 12), (4, 4), nn.ConvTranspose2d),
        ((5, 5), (5, 5), (1, 1), nn.Conv2d),
        ((9, 7), (4, 6), (6, 2), nn.Conv2d),
    ],
)
def test_regressor_gives_the_teachers_shape(
    student_size: tuple[int, int],
    teacher_size: tuple[int, int],
    kernel: tuple[int, int],
    kind: type[nn.Module],
) -> None:
    regressor = hint_regressor((3, *student_size), (5, *teacher_size))
    assert isinstance(regressor[0], kind)
    assert regressor[0].kernel_size == kernel
    assert regressor(torch.randn(2, 3, *student_size)).shape == (2, 5, *teacher_size)


def test_a_much_smaller_student_is_an_error() -> None:
    with pytest.raises(ValueError, match="STUDENT_STAGES: got a map of 2x2 .* of 8x8"):
        hint_regressor((3, 2, 2), (5, 8, 8))


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


def unit(x: Any) -> Any:
    length = np.sqrt((x**2).sum())
    return x / length if length > 0 else x


def test_sp_compares_rows_of_euclidean_length_1(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    def similarities(x: Any) -> Any:
        return np.array([unit(np.array([(a * b).sum() for b in x])) for a in x])

    gs, gt = (similarities(x.maps[-1].detach().numpy()) for x in (student, teacher))
    terms = make_distiller("SP")(student, teacher, labels, indices)
    assert list(terms) == ["stage3"]
    assert terms["stage3"].item() == pytest.approx(((gs - gt) ** 2).sum() / len(gs) ** 2, rel=1e-12)
