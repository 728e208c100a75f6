"""Distillation methods for classifiers, by name in a registry."""

from classification.distillers import contrastive, fam, logits, maps, similarity  # noqa: F401
from classification.distillers.base import (
    DISTILLER_REGISTRY,
    Distiller,
    FeatureShapes,
    build_distiller,
    feature_shapes,
)

__all__ = [
    "DISTILLER_REGISTRY",
    "Distiller",
    "FeatureShapes",
    "build_distiller",
    "feature_shapes",
]
