"""FGFI: hints on the cells near objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fam_det.core.losses import ValidSizes
from fam_det.core.peer_losses import imitation_loss
from fam_det.modeling.anchors import anchors_of
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, Adapter, Distiller, Shapes
from fam_det.modeling.hooks import forward_hook

from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, pairwise_iou


@DISTILLER_REGISTRY.register()
class FGFIDistiller(Distiller):
    """Fine-grained feature imitation (Wang et al., CVPR 2019).

    A 3x3 convolution for each level, and the squared distance on cells with an anchor near an
    object: one whose IoU with it is above a share of the best anchor's. The paper has one map; here
    the best anchor is sought on all levels, so that an object counts where its anchors lie.

    Args:
        levels: names of the feature maps, shallow to deep.
        student_channels: of each level.
        teacher_channels: of each level.
        threshold: that share, in [0, 1].

    Raises:
        ValueError: another threshold.
    """

    reads = ("FGFI",)

    @configurable
    def __init__(
        self,
        *,
        levels: Sequence[str],
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        threshold: float,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"MODEL.DISTILLER.FGFI.THRESHOLD: got {threshold}, expected 0 to 1")
        self.threshold = threshold
        self.adapters = nn.ModuleDict(
            {
                level: Adapter(own, other, kernel_size=3, padding=1)
                for level, own, other in zip(
                    levels, student_channels, teacher_channels, strict=True
                )
            }
        )

    @classmethod
    def from_config(
        cls, cfg: CfgNode, levels: Sequence[str], student: Shapes, teacher: Shapes
    ) -> dict[str, Any]:
        """Arguments of ``__init__``."""
        return {
            "levels": levels,
            "student_channels": [student[level].channels for level in levels],
            "teacher_channels": [teacher[level].channels for level in levels],
            "threshold": cfg.MODEL.DISTILLER.FGFI.THRESHOLD,
        }

    def start_at(self, basis: Tensor) -> None:
        """Starts every adapter at it."""
        for adapter in self.adapters.values():
            cast(Adapter, adapter).start_at(basis)

    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raises a ValueError for a student without anchors on a level."""
        names, _ = anchors_of(student)
        for level in self.adapters:
            if level not in names:
                raise ValueError(
                    f"MODEL.DISTILLER.LEVELS: FGFIDistiller needs anchors on {level!r}, the "
                    f"student has them on {', '.join(names) or 'no level'}"
                )

    @contextmanager
    def capture(
        self, student: nn.Module, teacher: nn.Module, batched_inputs: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Records the anchors of each level and the objects of each image."""
        names, generator = anchors_of(student)
        captured: dict[str, Any] = {"objects": [x["instances"].gt_boxes for x in batched_inputs]}

        def keep(_: Sequence[Any], anchors: Sequence[Boxes]) -> None:
            captured["anchors"] = dict(zip(names, anchors, strict=True))

        with forward_hook(generator, keep):
            yield captured

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        valid_sizes: Mapping[str, ValidSizes],
        *,
        anchors: Mapping[str, Boxes],
        objects: Sequence[Boxes],
    ) -> dict[str, Tensor]:
        """Returns the unweighted loss of each level, of maps (N, C, H, W) and (N, C_teacher, H, W).

        ``anchors`` are xyxy in pixels, those of a cell one after another, cells row by row;
        ``objects`` are the ground truth of each image, alike. No anchor is near an object for its
        padding, so the valid sizes are not needed.
        """
        near = near_objects([anchors[level] for level in self.adapters], objects, self.threshold)
        return {
            level: imitation_loss(
                adapter(student[level]), teacher[level], cells_of(mask, student[level])
            )
            for (level, adapter), mask in zip(self.adapters.items(), near, strict=True)
        }


def near_objects(
    anchors: Sequence[Boxes], objects: Sequence[Boxes], threshold: float
) -> list[Tensor]:
    """Finds the anchors that are near an object of an image.

    Args:
        anchors: of each level.
        objects: of each image.
        threshold: share of the best IoU that an object has with any anchor.

    Returns:
        Bool (N, number of anchors) for each level.
    """
    every = Boxes.cat(list(anchors))
    masks = []
    for boxes in objects:
        iou = pairwise_iou(every, boxes.to(every.device))  # (anchors, objects)
        best = iou.amax(0) if len(iou) else iou.new_zeros(len(boxes))
        masks.append(((iou > threshold * best) & (iou > 0)).any(1))
    return list(torch.stack(masks).split([len(level) for level in anchors], dim=1))


def cells_of(mask: Tensor, features: Tensor) -> Tensor:
    """Returns the cells (N, H, W) of a map (N, C, H, W) with an anchor in the mask.

    Args:
        mask: bool (N, H * W * anchors a cell).
        features: the map.
    """
    height, width = features.shape[-2:]
    return mask.view(len(mask), height, width, -1).any(-1)
