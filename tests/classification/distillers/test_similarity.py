"""PKT and RKD against loops over pairs and triples of images."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from classification.distillers import Distiller
from classification.models import Features

Make = Callable[..., Distiller]


def smooth_l1(x: float) -> float:
    return 0.5 * x**2 if abs(x) < 1 else abs(x) - 0.5


def unit(x: Any) -> Any:
    length = np.sqrt((x**2).sum())
    return x / length if length > 0 else x


def test_pkt_is_the_divergence_of_its_distributions(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    def distributions(pooled: Any) -> Any:
        cosines = [[(1 + unit(a) @ unit(b)) / 2 for b in pooled] for a in pooled]
        return np.array([np.array(row) / sum(row) for row in cosines])

    q, p = (distributions(x.pooled.detach().numpy()) for x in (student, teacher))
    terms = make_distiller("PKT")(student, teacher, labels, indices)
    assert terms["pkt"].item() == pytest.approx(np.mean(p * np.log(p / q)), rel=1e-4)


def test_rkd_compares_distances_and_angles(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    pooled = [x.pooled.detach().numpy() for x in (student, teacher)]
    n = len(labels)

    def distances(x: Any) -> Any:
        d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
        return d / d[d > 0].mean()

    ds, dt = map(distances, pooled)
    distance = np.mean([smooth_l1(ds[i, j] - dt[i, j]) for i, j in product(range(n), repeat=2)])
    cosines = [
        [unit(x[i] - x[j]) @ unit(x[k] - x[j]) for i, j, k in product(range(n), repeat=3)]
        for x in pooled
    ]
    angle = np.mean([smooth_l1(a - b) for a, b in zip(*cosines, strict=True)])
    distiller = make_distiller("RKD", "RKD.ANGLE_WEIGHT", 7.0)
    terms = distiller(student, teacher, labels, indices)
    assert terms["distance"].item() == pytest.approx(distance, rel=1e-9)
    assert terms["angle"].item() == pytest.approx(angle, rel=1e-9)
    assert distiller.term_weights == {"distance": 25.0, "angle": 7.0}


def test_rkd_of_one_image_says_so(make_distiller: Make, student: Features) -> None:
    one = student._replace(pooled=student.pooled[:1])
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH: got 1 image a device"):
        make_distiller("RKD")(one, one, *2 * [student.logits.argmax(1)[:1]])
