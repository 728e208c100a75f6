"""Labelled images: CIFAR, folders by class, ImageNet, digits; and loaders with exact resume."""

from classification.data.build import build_test_loader, build_train_loader, read_test_image
from classification.data.datasets import DATASET_REGISTRY, load_splits, read_classes
from classification.data.images import Batch, ImageFiles, ImageSet, hold_out

__all__ = [
    "DATASET_REGISTRY",
    "Batch",
    "ImageFiles",
    "ImageSet",
    "build_test_loader",
    "build_train_loader",
    "hold_out",
    "load_splits",
    "read_classes",
    "read_test_image",
]
