"""Builds a student with its teacher and distiller from a config."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from classification.config import get_cfg
from classification.data import load_splits
from classification.data.build import check_statistics
from classification.distilled_classifier import DistilledClassifier
from classification.distillers import Distiller, build_distiller, feature_shapes
from classification.models import build_model
from classification.models.imagenet import pretrained_weights
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def build_classifier(cfg: CfgNode) -> DistilledClassifier:
    """Builds the model that a config describes, on ``MODEL.DEVICE``.

    Raises:
        ValueError: an unknown or impossible value; the message names the key.
    """
    node = cfg.MODEL.DISTILLER
    student = build_network(cfg, "STUDENT")
    teacher: nn.Module | None = None
    distiller: Distiller | None = None
    if node.NAME:
        teacher = build_network(cfg, "TEACHER")
        distiller = build_distiller(
            cfg,
            feature_shapes(student, cfg.INPUT.SIZE),
            feature_shapes(teacher, cfg.INPUT.SIZE),
            load_splits(cfg).train.labels,
        )
    published = distiller or Distiller
    model = DistilledClassifier(
        student,
        teacher,
        distiller,
        loss_weight=configured_or(node.LOSS_WEIGHT, published.loss_weight),
        ce_weight=configured_or(node.CE_WEIGHT, published.ce_weight),
        warmup_epochs=cfg.SOLVER.SCHEDULE_SCALE
        * configured_or(node.WARMUP_EPOCHS, published.warmup_epochs),
        epoch_iters=len(load_splits(cfg).train) / cfg.SOLVER.IMS_PER_BATCH,
        teacher_affine=teacher_affine(cfg) if teacher else None,
    )
    logger.info("Student: %s", describe_network(cfg, "STUDENT"))
    if node.NAME:
        logger.info("Teacher: %s", describe_network(cfg, "TEACHER"))
        logger.info("Distilled: %s, loss weight %g", node.NAME, model.loss_weight)
    return model.to(cfg.MODEL.DEVICE)


def describe_network(cfg: CfgNode, role: str) -> str:
    """Returns the name and the weights of ``MODEL.STUDENT`` or ``MODEL.TEACHER``."""
    node = cfg.MODEL[role]
    return f"{node.NAME}, {node.WEIGHTS or 'random weights'}"


def build_network(cfg: CfgNode, role: str) -> nn.Module:
    """Builds the network of ``MODEL.STUDENT`` or ``MODEL.TEACHER`` with its weights.

    Its weights are channels last in memory: 1.3 times as fast on two CPU cores, and the layout of
    a GPU's tensor cores.
    """
    node, num_classes = cfg.MODEL[role], cfg.MODEL.NUM_CLASSES
    if not node.NAME:
        raise ValueError(f"MODEL.{role}.NAME: not given; expected a name such as 'resnet20'")
    try:
        network = build_model(node.NAME, num_classes, weights=node.WEIGHTS)
    except (ValueError, OSError) as error:
        raise ValueError(f"MODEL.{role}: {error}") from error
    if node.WEIGHTS and not Path(node.WEIGHTS).is_file():
        classes = pretrained_weights(node.NAME, node.WEIGHTS).num_classes
        if classes != num_classes and role == "TEACHER":
            raise ValueError(
                f"MODEL.TEACHER.WEIGHTS: {node.WEIGHTS!r} knows {classes} classes, not the data's "
                f"{num_classes}; train it on them as a student first, and name its checkpoint"
            )
        if classes != num_classes:
            logger.info(
                "%s knows %d classes: the student's classifier is new", node.WEIGHTS, classes
            )
    return network.to(memory_format=torch.channels_last)


def teacher_affine(cfg: CfgNode) -> tuple[Tensor, Tensor] | None:
    """Returns factor and offset that turn the student's normalised images into the teacher's.

    Both are (3, 1, 1); None if the two have the same normalisation.
    """
    student = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    teacher = teacher_statistics(cfg)
    check_statistics("MODEL.TEACHER", *teacher)
    if [list(x) for x in student] == [list(x) for x in teacher]:
        return None
    logger.info(
        "the teacher's images have mean and deviation %s, the student's %s", teacher, student
    )
    mean, std, teacher_mean, teacher_std = (
        torch.tensor(x, device=cfg.MODEL.DEVICE)[:, None, None] for x in (*student, *teacher)
    )
    return std / teacher_std, (mean - teacher_mean) / teacher_std


def teacher_statistics(cfg: CfgNode) -> tuple[Sequence[float], Sequence[float]]:
    """Returns mean and deviation of the channels of the teacher's images."""
    node, inputs = cfg.MODEL.TEACHER, cfg.INPUT
    if node.PIXEL_MEAN or node.PIXEL_STD:
        return node.PIXEL_MEAN, node.PIXEL_STD
    if node.WEIGHTS and not Path(node.WEIGHTS).is_file():
        pretrained = pretrained_weights(node.NAME, node.WEIGHTS)
        return pretrained.mean, pretrained.std
    config_file = Path(node.WEIGHTS).with_name("config.yaml") if node.WEIGHTS else None
    with suppress(ValueError):  # a config of another program
        if config_file and config_file.is_file():
            merge_config(teacher_cfg := get_cfg(), config_file)
            inputs = teacher_cfg.INPUT
    return inputs.PIXEL_MEAN, inputs.PIXEL_STD


def configured_or(value: float | None, published: float) -> float:
    """Returns a config's value, or the published one if that is None."""
    return published if value is None else value
