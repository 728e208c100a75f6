"""Builds the loaders of a run from its config."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from classification.data.datasets import load_splits
from classification.data.images import ImageFiles, open_image, read_pixels
from classification.data.loader import (
    EvaluationLoader,
    InMemoryLoader,
    StreamingLoader,
    TrainLoader,
    evaluation_transform,
)
from fam_det.core.checks import check_positive

from detectron2.config import CfgNode
from detectron2.utils import comm


def read_test_image(cfg: CfgNode, file: str) -> Tensor:
    """Reads an image (3, S, S), uint8, RGB, as an evaluation reads images of a folder."""
    size = cfg.INPUT.SIZE
    if cfg.DATASETS.NAME == "imagenet":
        return evaluation_transform(size)(open_image(file))
    return read_pixels(file, size)


def build_train_loader(cfg: CfgNode, seed: int) -> TrainLoader:
    """Builds endless batches of this process's part of ``SOLVER.IMS_PER_BATCH`` images.

    Images in memory are augmented with ``INPUT.CROP_PADDING`` and ``INPUT.FLIP``. Images on disk
    are cropped at random sizes, without padding.

    Args:
        cfg: the config.
        seed: 0 or more, the same in every process.

    Raises:
        ValueError: an impossible value; the message names the key.
    """
    check_positive("INPUT.CROP_PADDING", cfg.INPUT.CROP_PADDING, zero=True)
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    options = {**_options(cfg), "flip": cfg.INPUT.FLIP, "seed": seed}
    train = load_splits(cfg).train
    if isinstance(train, ImageFiles):
        max_unreadable = cfg.DATALOADER.MAX_UNREADABLE
        return StreamingLoader(train, batch_size, **options, max_unreadable=max_unreadable)
    return InMemoryLoader(train, batch_size, **options, padding=cfg.INPUT.CROP_PADDING)


def build_test_loader(cfg: CfgNode) -> EvaluationLoader:
    """Builds batches of this process's share of the held-out images, or else of the test set.

    Raises:
        ValueError: an impossible value; the message names the key.
    """
    check_positive("TEST.IMS_PER_BATCH", cfg.TEST.IMS_PER_BATCH)
    batch_size = -(-cfg.TEST.IMS_PER_BATCH // comm.get_world_size())
    return EvaluationLoader(load_splits(cfg).evaluation, batch_size, **_options(cfg))


def _options(cfg: CfgNode) -> dict[str, Any]:
    mean, std = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    check_statistics("INPUT", mean, std)
    return {
        "mean": mean,
        "std": std,
        "device": cfg.MODEL.DEVICE,
        "rank": comm.get_rank(),
        "world_size": comm.get_world_size(),
        "size": cfg.INPUT.SIZE,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
        "timeout": cfg.DATALOADER.TIMEOUT,
    }


def check_statistics(node: str, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises a ValueError that names the keys unless both have a valid value per channel."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"{node}.PIXEL_MEAN, {node}.PIXEL_STD: got {mean} and {std}, "
            "expected three numbers each, the latter more than 0"
        )
