"""Distillation methods for classifiers, by name in a registry."""

from classification.distillers import frequency as _  # noqa: F401  only registration
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
