"""The base of the methods that compare the student's feature maps with the teacher's."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.config import default_config, warn_of_unread_keys
from fam_det.core import FrequencyAttention
from fam_det.core.checks import check_choice
from fam_det.core.losses import LOSSES, ValidSizes
from fam_det.modeling.metrics import gammas
from fam_det.modeling.sync_batch_norm import set_norm

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.utils.registry import Registry

DISTILLER_REGISTRY = Registry("DISTILLER")
DISTILLER_REGISTRY.__doc__ = """
Registry of distillers: ``Distiller`` built from ``(cfg, levels, student_shape, teacher_shape)``.

``levels`` are the names of the feature maps, shallow to deep; the shapes map them to ``ShapeSpec``.
A call takes the student's maps, the teacher's maps (dictionaries by level), the valid sizes of each
level and, as keywords, what ``capture`` recorded. It returns a dictionary of unweighted scalar
losses by name. A distiller whose call has the keyword ``compare_heads`` calls that function, if
there is one, with its transformed maps, and returns those losses as well; see
``fam_det.modeling.head_loss``.
"""

# MID_CHANNELS is a size: a base config may set it for whatever method needs one.
SHARED_KEYS = {"NAME", "LEVELS", "LOSS_WEIGHT", "WARMUP_ITERS", "MID_CHANNELS"}

Shapes = Mapping[str, ShapeSpec]
Loss = Callable[[Tensor, Tensor, ValidSizes | None], Tensor]


class Distiller(nn.Module):
    """Base of the distillers; a method on feature maps alone is a ``FeatureDistiller``."""

    # Parts of the teacher whose weights it needs, besides the backbone.
    teacher_parts: Sequence[str] = ()
    # Keys of ``MODEL.DISTILLER`` that it reads, besides ``SHARED_KEYS``: others that were set get a
    # warning. None turns the warning off.
    reads: Collection[str] | None = None

    @property
    def compares_heads(self) -> bool:
        """Returns whether it reads ``MODEL.DISTILLER.HEAD_WEIGHT``."""
        return "compare_heads" in inspect.signature(self.forward).parameters

    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raises a ValueError for detectors that the method cannot be used with."""

    def capture(
        self, student: nn.Module, teacher: nn.Module, batched_inputs: Sequence[dict[str, Any]]
    ) -> AbstractContextManager[dict[str, Any]]:
        """Returns a context around the student's forward pass that records its other outputs.

        The entries of its dictionary become further keywords of ``forward``.
        """
        return nullcontext({})

    def start_at(self, basis: Tensor) -> None:
        """Initialises the map from the student's features z to the teacher's as E z; see ``basis``.

        Args:
            basis: E, (C, k), for a student whose maps are thinner than the teacher's.
        """

    def metrics(self) -> dict[str, Tensor]:
        """Returns scalars to log beside the losses, one-element tensors by name."""
        return {}


class Adapter(nn.Conv2d):
    """A convolution from the student's channels to the teacher's."""

    @torch.no_grad()
    def start_at(self, mix: Tensor) -> None:
        """Sets the centre of the kernel to a matrix (C_out, C_in), and the rest to zero."""
        height, width = self.kernel_size
        nn.init.zeros_(self.weight)[:, :, height // 2, width // 2] = mix
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class FeatureDistiller(Distiller):
    """Transforms the student's maps, then compares each level with the teacher's.

    A subclass defines ``build_transform``, and ``build_loss`` if its loss is not that of
    ``MODEL.DISTILLER.LOSS``.

    Args:
        levels: names of the feature maps, shallow to deep.
        transform: list of student maps -> list of maps of the teacher's channels.
        loss: function of two maps and the valid sizes of the images, as those in ``LOSSES``.
    """

    @configurable
    def __init__(self, *, levels: Sequence[str], transform: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.levels = list(levels)
        self.transform = transform
        self.loss = loss

    @classmethod
    def from_config(
        cls, cfg: CfgNode, levels: Sequence[str], student: Shapes, teacher: Shapes
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        student_channels, teacher_channels = (
            [shapes[level].channels for level in levels] for shapes in (student, teacher)
        )
        try:
            transform = cls.build_transform(cfg.MODEL.DISTILLER, student_channels, teacher_channels)
        except ValueError as error:  # the core names its argument: add the node of the config
            raise ValueError(f"MODEL.DISTILLER: {error}") from error
        return {
            "levels": levels,
            "transform": transform,
            "loss": cls.build_loss(cfg.MODEL.DISTILLER),
        }

    @classmethod
    def build_loss(cls, distiller: CfgNode) -> Loss:
        """Returns the loss that ``LOSS`` of a ``MODEL.DISTILLER`` node names."""
        check_choice("MODEL.DISTILLER.LOSS", distiller.LOSS, LOSSES)
        return LOSSES[distiller.LOSS]

    @classmethod
    @abstractmethod
    def build_transform(
        cls, distiller: CfgNode, student_channels: list[int], teacher_channels: list[int]
    ) -> nn.Module:
        """Builds the transform for a ``MODEL.DISTILLER`` node and the channels of each level."""

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        valid_sizes: Mapping[str, ValidSizes],
        *,
        compare_heads: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> dict[str, Tensor]:
        """Returns the unweighted loss of each level, of maps (N, C, H, W) and (N, C_teacher, H, W).

        ``valid_sizes`` has for each level the size (h, w) of each image in cells, without padding.
        """
        maps = self.transform([student[level] for level in self.levels])
        transformed = dict(zip(self.levels, maps, strict=True))
        losses = {
            level: self.loss(x, teacher[level], valid_sizes[level])
            for level, x in transformed.items()
        }
        return losses | (compare_heads(transformed) if compare_heads else {})

    def start_at(self, basis: Tensor) -> None:
        """Initialises every frequency attention module and every adapter with the basis."""
        for module in self.transform.modules():
            if isinstance(module, FrequencyAttention | Adapter):
                module.start_at(basis)

    def metrics(self) -> dict[str, Tensor]:
        """Returns gamma_global and gamma_local of every level."""
        return gammas(self.transform, self.levels)


def build_distiller(
    cfg: CfgNode, levels: Sequence[str], student: Shapes, teacher: Shapes
) -> Distiller:
    """Builds the distiller that ``MODEL.DISTILLER.NAME`` names, on ``MODEL.DEVICE``.

    Raises:
        ValueError: an unknown name or option; the message names the key.
    """
    name = cfg.MODEL.DISTILLER.NAME
    check_choice("MODEL.DISTILLER.NAME", name, sorted(known for known, _ in DISTILLER_REGISTRY))
    distiller: Distiller = DISTILLER_REGISTRY.get(name)(cfg, levels, student, teacher)
    default = default_config()
    shared = SHARED_KEYS | ({"HEAD_WEIGHT"} if distiller.compares_heads else set())
    reads = None if distiller.reads is None else shared | set(distiller.reads)
    warn_of_unread_keys(cfg.MODEL.DISTILLER, default.MODEL.DISTILLER, reads)
    set_norm(distiller, cfg.MODEL.DISTILLER.NORM)
    return distiller.to(cfg.MODEL.DEVICE)
