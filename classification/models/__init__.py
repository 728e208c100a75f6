"""Classifiers that return their stages: CIFAR networks of the papers, and the libraries' own."""

from classification.models.base import Features
from classification.models.build import MODEL_REGISTRY, build_model, load_weights, stage_features

__all__ = ["MODEL_REGISTRY", "Features", "build_model", "load_weights", "stage_features"]
