"""Classifiers that return their stages: CIFAR networks of the papers, and the libraries' own."""

from classification.models.base import Features
from classification.models.build import MODEL_REGISTRY, build_model, stage_features
from classification.models.weights import load_weights

__all__ = ["MODEL_REGISTRY", "Features", "build_model", "load_weights", "stage_features"]
