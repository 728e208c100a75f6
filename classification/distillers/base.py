"""What a distillation method is: unweighted losses of a student's features beside a teacher's."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classification.models import Features, stage_features

from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry

DISTILLER_REGISTRY = Registry("DISTILLER")
DISTILLER_REGISTRY.__doc__ = """
Registry of distillers for classifiers: subclasses of :class:`Distiller`, built from
``(cfg, student_shapes, teacher_shapes, labels)``.
"""


@dataclass(frozen=True)
class FeatureShapes:
    """Shapes of a network's :class:`Features` for one image.

    Attributes:
        maps: (C, H, W) of each stage, from the stem on.
        pooled: C of the pooled feature.
        num_classes: K.
    """

    maps: list[tuple[int, int, int]]
    pooled: int
    num_classes: int


class Distiller(nn.Module):
    """Base of the methods.

    A subclass returns its terms, unweighted, from ``forward``. The trainer adds
    ``LOSS_WEIGHT * min(epoch / WARMUP_EPOCHS, 1) * sum(term_weights[name] * term)`` to
    ``CE_WEIGHT`` times the cross entropy; the class attributes are what the method's authors
    published, which a config can override.

    Attributes:
        term_weights: weight of each term; 1 for a term without an entry.
    """

    loss_weight: float = 1.0
    ce_weight: float = 1.0
    warmup_epochs: float = 0.0

    @configurable
    def __init__(self) -> None:
        super().__init__()
        self.term_weights: dict[str, float] = {}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Arguments of ``__init__``.

        Args:
            cfg: of :func:`classification.config.get_cfg`.
            student: shapes of the student's features.
            teacher: shapes of the teacher's.
            labels: int64, of every training image, in the order of ``Batch.indices``.
        """
        return {}

    @abstractmethod
    def forward(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted scalar losses by name.

        Args:
            student: of a batch of N images; gradients flow here.
            teacher: of the same images, without gradients.
            labels: int64 (N,).
            indices: int64 (N,), position of each image in the training set.
        """

    def metrics(self) -> dict[str, float]:
        """What to log beside the losses, by name."""
        return {}


def feature_shapes(model: nn.Module, image_size: int) -> FeatureShapes:
    """The shapes of a network's features for a square image, found by one forward pass on zeros."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        features = stage_features(model, torch.zeros(1, 3, image_size, image_size))
    model.train(was_training)
    maps = [(x.shape[1], x.shape[2], x.shape[3]) for x in features.maps]
    return FeatureShapes(maps, features.pooled.shape[1], features.logits.shape[1])


def build_distiller(
    cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
) -> Distiller:
    """The distiller that ``MODEL.DISTILLER.NAME`` names.

    Raises:
        ValueError: an unknown name or option; the message names the key.
    """
    name = cfg.MODEL.DISTILLER.NAME
    if name not in DISTILLER_REGISTRY:
        known = sorted(known for known, _ in DISTILLER_REGISTRY)
        raise ValueError(f"MODEL.DISTILLER.NAME: got {name!r}, expected one of {known}")
    try:
        distiller: Distiller = DISTILLER_REGISTRY.get(name)(cfg, student, teacher, labels)
    except ValueError as error:  # the core names its argument; say whose it is
        raise ValueError(f"MODEL.DISTILLER: {error}") from error
    return distiller
