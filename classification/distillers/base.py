"""Base of the distillation methods, which compare a student's features with a teacher's."""

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classification.config import distiller_keys
from classification.models import Features, stage_features
from fam_det.config import warn_of_unread_keys
from fam_det.core.checks import check_choice, check_positive

from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry

DISTILLER_REGISTRY = Registry("DISTILLER")
DISTILLER_REGISTRY.__doc__ = """
Registry of distillers for classifiers: subclasses of :class:`Distiller`, built from
``(cfg, student_shapes, teacher_shapes, labels)``.
"""
SHARED_KEYS = {"NAME", "LOSS_WEIGHT", "CE_WEIGHT", "WARMUP_EPOCHS"}
# Of the peers' keys: suffixes of those that may be 0, and those that a method checks itself.
WEIGHTS = ("WEIGHT", "ALPHA", "BETA", "GAMMA")
OWN_RANGE = ("MOMENTUM", "INIT_VARIANCE")
STAGE_KEYS = ("STUDENT_STAGES", "TEACHER_STAGES", "STUDENT_PREACT", "TEACHER_PREACT")


@dataclass(frozen=True)
class FeatureShapes:
    """Shapes of a network's :class:`Features` for one image."""

    maps: list[tuple[int, int, int]]  # (C, H, W) of each stage, from the stem on
    pooled: int  # C of the pooled feature
    num_classes: int  # K


class Distiller(nn.Module):
    """Base of the methods.

    A subclass returns its terms, unweighted, from ``forward``. The trainer adds
    ``LOSS_WEIGHT * min(epoch / WARMUP_EPOCHS, 1) * sum(term_weights[name] * term)`` to
    ``CE_WEIGHT`` times the cross entropy. The class attributes are the values of the method's
    authors, which a config can override.

    Attributes:
        term_weights: weight of each term; 1 for a term without an entry.
        reads: keys of ``MODEL.DISTILLER`` that the method reads, besides ``SHARED_KEYS``: others
            that were set get a warning. None turns the warning off.
    """

    loss_weight: float = 1.0
    ce_weight: float = 1.0
    warmup_epochs: float = 0.0
    reads: Collection[str] | None = None

    @configurable
    def __init__(self) -> None:
        super().__init__()
        self.term_weights: dict[str, float] = {}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Returns the arguments of ``__init__``.

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
        """Returns unweighted scalar losses by name.

        Args:
            student: of a batch of N images; gradients flow here.
            teacher: of the same images, without gradients.
            labels: int64 (N,).
            indices: int64 (N,), position of each image in the training set.
        """

    def metrics(self) -> dict[str, Tensor]:
        """Returns scalars to log beside the losses, one-element tensors by name."""
        return {}


class PeerDistiller(Distiller):
    """Base of the other methods: a subclass computes its terms in float32 or float64.

    The arguments of a subclass are the keys of its node of ``MODEL.DISTILLER``, such as ``KD``, in
    lower case; ``classification.config`` documents them. A ValueError names the key of a value that
    is out of range.
    """

    @configurable
    def __init__(self) -> None:
        super().__init__()
        self.reads = {type(self).__name__.upper()}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, student: FeatureShapes, teacher: FeatureShapes, labels: Tensor
    ) -> dict[str, Any]:
        """Returns the values of the method's node, such as ``MODEL.DISTILLER.KD``."""
        name = cls.__name__.upper()
        node = cfg.MODEL.DISTILLER.get(name, {})
        for key, value in node.items():
            if key not in OWN_RANGE:
                check_positive(f"{name}.{key}", value, zero=key.endswith(WEIGHTS))
        return {key.lower(): value for key, value in node.items()}

    def forward(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns unweighted terms, computed in full precision also under autocast."""
        with torch.autocast(labels.device.type, enabled=False):
            return self.terms(
                full_precision(student), full_precision(teacher, detach=True), labels, indices
            )

    @abstractmethod
    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Returns unweighted scalar losses by name; arguments as of ``forward``."""


def full_precision(features: Features, *, detach: bool = False) -> Features:
    """Returns the features in float32 or better, and detached if asked."""

    def convert(x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x.detach() if detach else x

    return Features(
        [convert(x) for x in features.maps],
        [convert(x) for x in features.preactivation],
        convert(features.pooled),
        convert(features.logits),
    )


def feature_shapes(model: nn.Module, image_size: int) -> FeatureShapes:
    """Returns the shapes of a network's features for a square image, from a forward pass."""
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
    """Builds the distiller that ``MODEL.DISTILLER.NAME`` names.

    Raises:
        ValueError: an unknown name or option; the message names the key.
    """
    name = cfg.MODEL.DISTILLER.NAME
    check_choice("MODEL.DISTILLER.NAME", name, sorted(known for known, _ in DISTILLER_REGISTRY))
    try:
        distiller: Distiller = DISTILLER_REGISTRY.get(name)(cfg, student, teacher, labels)
    except ValueError as error:  # the core names its argument: add the node of the config
        raise ValueError(f"MODEL.DISTILLER: {error}") from error
    reads = None if distiller.reads is None else SHARED_KEYS | set(distiller.reads)
    warn_of_unread_keys(cfg.MODEL.DISTILLER, distiller_keys(), reads)
    return distiller
