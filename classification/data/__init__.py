"""Labelled images: CIFAR, folders by class, ImageNet, digits; and loaders that resume exactly."""

from classification.data.build import (
    DatasetInfo,
    build_test_loader,
    build_train_loader,
    dataset_info,
    read_test_image,
)
from classification.data.datasets import DATASET_REGISTRY, read_classes
from classification.data.images import Batch, ImageFiles, ImageSet, hold_out

__all__ = [
    "DATASET_REGISTRY",
    "Batch",
    "DatasetInfo",
    "ImageFiles",
    "ImageSet",
    "build_test_loader",
    "build_train_loader",
    "dataset_info",
    "hold_out",
    "read_classes",
    "read_test_image",
]
