"""AT against loops over its definition."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from classification.distillers import Distiller
from classification.models import Features


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
