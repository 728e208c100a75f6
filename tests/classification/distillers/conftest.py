"""Random features of a small student and teacher, and distillers for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from classification.config import get_cfg
from classification.distillers import Distiller, FeatureShapes, build_distiller
from classification.models import Features

IMAGES, CLASSES = 6, 5
# The teacher's second stage is smaller than the student's, its third one as large, its last one
# larger.
STUDENT = FeatureShapes([(3, 8, 8), (3, 8, 8), (4, 4, 4), (5, 2, 2)], 5, CLASSES)
TEACHER = FeatureShapes([(4, 8, 8), (4, 4, 4), (6, 4, 4), (7, 3, 3)], 7, CLASSES)
LIBRARY_METHODS = {"KD", "DIST", "AT", "PKT", "RKD", "VID", "CRD"}


@pytest.fixture
def shapes() -> dict[str, FeatureShapes]:
    return {"student": STUDENT, "teacher": TEACHER}


@pytest.fixture
def train_labels() -> torch.Tensor:
    """Of a training set of 23 images."""
    return torch.arange(23) % CLASSES


@pytest.fixture
def indices() -> torch.Tensor:
    return torch.tensor([4, 0, 22, 7, 9, 13])


@pytest.fixture
def labels(train_labels: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return train_labels[indices]


@pytest.fixture
def make_features() -> Callable[..., Features]:
    """Random float64 features for shapes and a seed, with gradients if asked for."""

    def make(shapes: FeatureShapes, seed: int, *, grad: bool = False) -> Features:
        generator = torch.Generator().manual_seed(seed)

        def draw(*size: int) -> torch.Tensor:
            x = torch.randn(IMAGES, *size, generator=generator, dtype=torch.float64)
            return x.requires_grad_(grad)

        maps = [draw(*shape) for shape in shapes.maps]
        return Features(maps, maps, draw(shapes.pooled), draw(shapes.num_classes))

    return make


@pytest.fixture
def student(make_features: Callable[..., Features]) -> Features:
    return make_features(STUDENT, 1, grad=True)


@pytest.fixture
def teacher(make_features: Callable[..., Features]) -> Features:
    return make_features(TEACHER, 2)


@pytest.fixture
def make_distiller(train_labels: torch.Tensor) -> Callable[..., Distiller]:
    """A float64 distiller by name, with KEY VALUE changes under MODEL.DISTILLER."""

    def make(
        name: str,
        *opts: Any,
        student: FeatureShapes = STUDENT,
        teacher: FeatureShapes = TEACHER,
        labels: torch.Tensor = train_labels,
    ) -> Distiller:
        if name in LIBRARY_METHODS:
            pytest.importorskip("torchdistill", exc_type=ImportError)
        cfg = get_cfg()
        cfg.MODEL.DISTILLER.NAME = name
        cfg.MODEL.DISTILLER.CRD.NEGATIVES = cfg.MODEL.DISTILLER.WCORD.NEGATIVES = 9
        keys = [f"MODEL.DISTILLER.{x}" if i % 2 == 0 else x for i, x in enumerate(opts)]
        cfg.merge_from_list(keys)
        return build_distiller(cfg, student, teacher, labels).double()

    return make
