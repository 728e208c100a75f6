"""Detectron2's inference written for one image, which leaves a graph fewer and smaller nodes.

The detections are the same. What differs is the work around the networks, which weighs as much as
they do once they are thin:

- only the best anchors of each level are placed and decoded, not all of them;
- NMS ends at the proposals or detections asked for, and itself leaves out what scores too low;
- the boxes of the levels are put into order once, instead of into an array of all for each level.

N boxes, K classes, L levels, A anchors a position.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import fast_rcnn
from detectron2.structures import Boxes, ImageList, Instances

LOWEST = -3e38  # above minus infinity, below every score


@contextmanager
def one_image(detector: nn.Module) -> Iterator[None]:
    """Within this context a detector that is traced computes as here, where it is Detectron2's."""
    modules = list(detector.modules())
    changed: list[tuple[Any, str, Any]] = []
    if type(detector) is GeneralizedRCNN and not _needs_square(detector.backbone):
        changed.append((detector, "preprocess_image", partial(preprocess_image, detector)))
    for module in modules:
        if type(module) is RPN and _is_plain(module):
            changed.append((module, "forward", partial(find_proposals, module)))
        elif type(module) is ROIPooler and len(module.level_poolers) > 1:
            changed.append((module, "forward", partial(pool_boxes, module)))
    for module, name, function in changed:
        setattr(module, name, function)
    try:
        with patch.object(fast_rcnn, "fast_rcnn_inference_single_image", select_detections):
            yield
    finally:
        for module, name, _ in changed:
            delattr(module, name)


def _needs_square(backbone: Any) -> bool:
    return bool(getattr(backbone, "padding_constraints", {}).get("square_size", 0))


def _is_plain(rpn: RPN) -> bool:
    transform, anchors = rpn.box2box_transform, rpn.anchor_generator
    return type(transform) is Box2BoxTransform and type(anchors) is DefaultAnchorGenerator


def preprocess_image(detector: Any, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
    """Normalises an image and pads it below and on the right."""
    image = (batched_inputs[0]["image"] - detector.pixel_mean) / detector.pixel_std
    height, width = image.shape[1:]  # tensors in tracing
    divisor = max(detector.backbone.size_divisibility, 1)
    below, right = (-height) % divisor, (-width) % divisor
    return ImageList(F.pad(image, (0, right, 0, below))[None], [(height, width)])


def find_proposals(
    rpn: RPN, images: ImageList, features: dict[str, Tensor], _: Any = None
) -> tuple[list[Instances], dict[str, Tensor]]:
    """Returns the proposals of an RPN, the highest score first."""
    logits, deltas = rpn.rpn_head([features[name] for name in rpn.in_features])
    best = [
        _best_of_level(rpn, level, *maps)
        for level, maps in enumerate(zip(logits, deltas, strict=True))
    ]
    scores, offsets, anchors = (torch.cat(x) for x in zip(*best, strict=True))
    boxes = clip(rpn.box2box_transform.apply_deltas(offsets, anchors), images.image_sizes[0])
    sides = boxes[:, 2:] - boxes[:, :2]
    scores = torch.where(sides.amin(1) > rpn.min_box_size, scores, -torch.inf)
    levels = torch.cat([torch.full_like(x[0], level) for level, x in enumerate(best)])
    apart = boxes + (levels * (boxes.max() + 1.0))[:, None]
    limit = rpn.post_nms_topk[False]
    keep = NMS.apply(apart[None], scores[None], limit, rpn.nms_thresh, LOWEST)[:, 2]
    proposals = Instances(images.image_sizes[0])
    proposals.proposal_boxes = Boxes(boxes[keep])
    proposals.objectness_logits = scores[keep]
    return [proposals], {}


def _best_of_level(
    rpn: RPN, level: int, logits: Tensor, deltas: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns scores (k,), deltas (k, 4) and anchors (k, 4) of the k highest scores.

    Args:
        rpn: whose anchors they are.
        level: index from 0.
        logits: (1, A, H, W).
        deltas: (1, 4 * A, H, W).
    """
    anchors = rpn.anchor_generator
    cells = getattr(anchors.cell_anchors, str(level))  # (A, 4)
    width = logits.shape[3]
    flat = logits[0].permute(1, 2, 0).reshape(-1)  # (H * W * A,)
    count = flat.shape[0]
    limit = rpn.pre_nms_topk[False]
    # A tensor in tracing.
    count = count.clamp(max=limit) if isinstance(count, Tensor) else min(count, limit)
    scores, index = flat.topk(count)
    position = torch.div(index, len(cells), rounding_mode="trunc")
    row = torch.div(position, width, rounding_mode="trunc")
    corner = torch.stack([position - row * width, row], 1).float()  # (k, 2), as x and y
    shift = (corner + anchors.offset) * anchors.strides[level]
    placed = cells[index - position * len(cells)] + shift.repeat(1, 2)
    offsets = deltas[0].permute(1, 2, 0).reshape(-1, 4)[index]
    return scores, offsets, placed


def clip(boxes: Tensor, size: tuple[Any, Any]) -> Tensor:
    """Returns boxes (..., 4), xyxy, within an image of this (H, W)."""
    height, width = (torch.as_tensor(side, device=boxes.device) for side in size)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]).float())


def pool_boxes(pooler: ROIPooler, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
    """Returns (N, C, h, w), pooled from the map (1, C, H, W) of the level of each box."""
    levels = assign_boxes_to_levels(
        boxes,
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    rois = F.pad(boxes[0].tensor, (1, 0))  # the index of the image is 0
    places = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    pooled = [
        pool(x, rois[place])
        for pool, x, place in zip(pooler.level_poolers, maps, places, strict=True)
    ]
    order = torch.cat(places)
    back = torch.zeros_like(order).scatter(0, order, torch.ones_like(order).cumsum(0) - 1)
    return torch.cat(pooled)[back]


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, Tensor]:
    """Replaces Detectron2's ``fast_rcnn_inference_single_image``.

    Args:
        boxes: (N, K * 4), or (N, 4) for the same boxes of all classes.
        scores: (N, K + 1), the background last.
        image_shape: (H, W).
        score_thresh: that a score must be above.
        nms_thresh: IoU above which the lower of two scores goes.
        topk_per_image: detections to keep.

    Returns:
        Detections, the highest score first, and the index of the box of each.
    """
    by_class = scores[:, :-1].t()  # (K, N)
    placed = clip(boxes.reshape(len(boxes), -1, 4), image_shape).transpose(0, 1)
    placed = placed.expand(by_class.shape[0], -1, -1)  # (K, N, 4)
    found = NMS.apply(placed, by_class, topk_per_image, nms_thresh, score_thresh)
    values = by_class[found[:, 0], found[:, 2]]
    count = values.shape[0]
    limit = topk_per_image
    count = count.clamp(max=limit) if isinstance(count, Tensor) else min(count, limit)
    values, best = values.topk(count)
    classes, index = found[best, 0], found[best, 2]
    result = Instances(image_shape)
    result.pred_boxes = Boxes(placed[classes, index])
    result.scores = values
    result.pred_classes = classes
    return result, index


class NMS(torch.autograd.Function):
    """ONNX's NonMaxSuppression, with all of its limits."""

    @staticmethod
    def forward(
        _: Any, boxes: Tensor, scores: Tensor, limit: int, threshold: float, lowest: float
    ) -> Tensor:
        """Returns (M, 3): problem, 0 and index of each box that is left, the best first.

        Args:
            _: unused.
            boxes: (B, N, 4), xyxy, of B problems.
            scores: (B, N).
            limit: boxes to keep of each problem.
            threshold: IoU above which the lower of two scores goes.
            lowest: score that those kept are above.
        """
        found = []
        for problem, (x, y) in enumerate(zip(boxes, scores, strict=True)):
            valid = (y > lowest).nonzero()[:, 0]
            index = valid[nms(x[valid], y[valid], threshold)[:limit]]
            found.append(torch.stack([index.new_full((len(index),), problem), 0 * index, index], 1))
        return torch.cat(found)

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, limit: int, threshold: float, lowest: float
    ) -> Any:
        """Writes the node."""
        floats = [torch.tensor([x], dtype=torch.float32) for x in (threshold, lowest)]
        constants = [g.op("Constant", value_t=x) for x in (torch.tensor([limit]), *floats)]
        axis = g.op("Constant", value_t=torch.tensor([1]))
        return g.op("NonMaxSuppression", boxes, g.op("Unsqueeze", scores, axis), *constants)
