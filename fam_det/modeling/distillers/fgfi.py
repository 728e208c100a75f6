"""FGFI: feature imitation on the cells near objects."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fam_det.core.losses import ValidSizes
from fam_det.core.peer_losses import imitation_loss
from fam_det.modeling.anchors import find_anchor_generator
from fam_det.modeling.distillers.base import DISTILLER_REGISTRY, Adapter, Distiller, Shapes
from fam_det.modeling.hooks import forward_hook

from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, pairwise_iou


@DISTILLER_REGISTRY.register()
class FGFIDistiller(Distiller):
    """Fine-grained feature imitation (Wang et al., CVPR 2019).

    A 3x3 convolution for each level, and the squared distance on cells with an anchor near an
    object: one whose IoU with the object exceeds ``threshold`` times the best anchor's. The paper
    has one map; here the best anchor is taken over all levels, so that an object counts on the
    level of its anchors.

    Args:
        levels: names of the feature maps, shallow to deep.
        student_channels: of each level.
        teacher_channels: of each level.
        threshold: fraction of the best IoU, in [0, 1].

    Raises:
        ValueError: a threshold outside that range.
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
                level: Adapter(c_in, c_out, kernel_size=3, padding=1)
                for level, c_in, c_out in zip(
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
        """Initialises every adapter with the basis."""
        for adapter in self.adapters.values():
            cast(Adapter, adapter).start_at(basis)

    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raises a ValueError for a student without anchors on a level."""
        anchor_levels, _ = find_anchor_generator(student)
        for level in self.adapters:
            if level not in anchor_levels:
                raise ValueError(
                    f"MODEL.DISTILLER.LEVELS: FGFIDistiller needs anchors on {level!r}, the "
                    f"student has them on {', '.join(anchor_levels) or 'no level'}"
                )

    @contextmanager
    def capture(
        self, student: nn.Module, teacher: nn.Module, batched_inputs: Sequence[dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Records the anchors of each level and the objects of each image."""
        levels, generator = find_anchor_generator(student)
        captured: dict[str, Any] = {"gt_boxes": [x["instances"].gt_boxes for x in batched_inputs]}

        def record(_: Sequence[Any], anchors: Sequence[Boxes]) -> None:
            captured["anchors"] = dict(zip(levels, anchors, strict=True))

        with forward_hook(generator, record):
            yield captured

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        valid_sizes: Mapping[str, ValidSizes],
        *,
        anchors: Mapping[str, Boxes],
        gt_boxes: Sequence[Boxes],
    ) -> dict[str, Tensor]:
        """Returns the unweighted loss of each level, of maps (N, C, H, W) and (N, C_teacher, H, W).

        ``anchors`` of each level are xyxy in pixels, cells row by row, the anchors of a cell in
        succession; ``gt_boxes`` are the ground truth of each image. Padding needs no mask: its
        anchors overlap no object.
        """
        masks = near_objects([anchors[level] for level in self.adapters], gt_boxes, self.threshold)
        return {
            level: imitation_loss(
                adapter(student[level]), teacher[level], cell_mask(mask, student[level])
            )
            for (level, adapter), mask in zip(self.adapters.items(), masks, strict=True)
        }


def near_objects(
    anchors: Sequence[Boxes], gt_boxes: Sequence[Boxes], threshold: float
) -> list[Tensor]:
    """Finds the anchors that are near an object of an image.

    Args:
        anchors: of each level.
        gt_boxes: of each image.
        threshold: fraction of the best IoU that an object has with any anchor.

    Returns:
        Bool (N, number of anchors) for each level.
    """
    all_anchors = Boxes.cat(list(anchors))
    masks = []
    for boxes in gt_boxes:
        iou = pairwise_iou(all_anchors, boxes.to(all_anchors.device))  # (anchors, objects)
        best = iou.amax(0) if len(iou) else iou.new_zeros(len(boxes))
        masks.append(((iou > threshold * best) & (iou > 0)).any(1))
    return list(torch.stack(masks).split([len(level) for level in anchors], dim=1))


def cell_mask(anchor_mask: Tensor, features: Tensor) -> Tensor:
    """Returns which cells have an anchor in the mask, bool (N, H, W).

    Args:
        anchor_mask: bool (N, H * W * anchors per cell).
        features: the map, (N, C, H, W).
    """
    height, width = features.shape[-2:]
    return anchor_mask.view(len(anchor_mask), height, width, -1).any(-1)
