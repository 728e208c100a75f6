"""What the peers share: full precision, a teacher without gradients, options that are checked."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from classification.distillers.base import Distiller
from classification.models import Features


class PeerDistiller(Distiller):
    """Base of the peers: a subclass gives its terms for features in float32 or float64."""

    def forward(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted terms, in full precision also under autocast."""
        with torch.autocast(labels.device.type, enabled=False):
            return self.terms(
                full_precision(student), full_precision(teacher, detach=True), labels, indices
            )

    @abstractmethod
    def terms(
        self, student: Features, teacher: Features, labels: Tensor, indices: Tensor
    ) -> dict[str, Tensor]:
        """Unweighted scalar losses by name; arguments as of ``forward``."""


def full_precision(features: Features, *, detach: bool = False) -> Features:
    """The features in float32, or float64 if they are; cut from the graph if asked for."""

    def convert(x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x.detach() if detach else x

    return Features(
        [convert(x) for x in features.maps],
        [convert(x) for x in features.preactivation],
        convert(features.pooled),
        convert(features.logits),
    )


def check_option(key: str, value: Any, valid: bool, expected: str) -> None:
    """Raise a ValueError that names the key unless the value is valid."""
    if not valid:
        raise ValueError(f"{key}: got {value}, expected {expected}")


def check_positive(key: str, value: float) -> None:
    """Raise a ValueError that names the key unless the value is positive."""
    check_option(key, value, value > 0, "more than 0")


def check_weight(key: str, value: float) -> None:
    """Raise a ValueError that names the key unless the value is 0 or more."""
    check_option(key, value, value >= 0, "0 or more")
