"""Distillation methods for classifiers, by name in a registry."""

from classification.distillers import (  # noqa: F401  only registration
    contrastive,
    fam,
    logits,
    maps,
    similarity,
)
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
