"""Detectron2's inference written for one image, which leaves a graph fewer and smaller nodes.

The detections are the same. What differs is the work around the networks, which weighs as much as
they do once they are thin:

- only the best anchors of each level are placed and decoded, not all of them;
- NMS ends at the proposals or detections asked for, and itself leaves out what scores too low;
- the pooled boxes are put into order once, not into an array of all of them for each level.

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
from torchvision.ops import nms, roi_align

from detectron2.layers import ROIAlign
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
    changed: list[tuple[Any, str, Any]] = []
    padding = getattr(getattr(detector, "backbone", None), "padding_constraints", {})
    if type(detector) is GeneralizedRCNN and not padding.get("square_size", 0):
        changed.append((detector, "preprocess_image", partial(preprocess_image, detector)))
    modules: list[Any] = list(detector.modules())
    for module in modules:
        if (
            type(module) is RPN
            and type(module.box2box_transform) is Box2BoxTransform
            and type(module.anchor_generator) is DefaultAnchorGenerator
        ):
            changed.append((module, "forward", partial(find_proposals, module)))
        elif (
            type(module) is ROIPooler
            and len(module.level_poolers) > 1
            and all(type(pool) is ROIAlign for pool in module.level_poolers)
        ):
            changed.append((module, "forward", partial(pool_boxes, module)))
    for module, name, function in changed:
        setattr(module, name, function)
    try:
        with (
            patch.object(fast_rcnn, "fast_rcnn_inference_single_image", select_detections),
            patch.object(Box2BoxTransform, "apply_deltas", apply_deltas),
        ):
            yield
    finally:
        for module, name, _ in changed:
            delattr(module, name)


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
    maps = [features[name] for name in rpn.in_features]
    best = [_best(rpn.pre_nms_topk[False], *x) for x in zip(*rpn.rpn_head(maps), strict=True)]
    scores, deltas, index = (torch.cat(x) for x in zip(*best, strict=True))  # (k,), (k, 4), (k,)
    level = torch.cat([torch.full_like(x, i) for i, (*_, x) in enumerate(best)])
    widths = torch.stack([torch.as_tensor(x.shape[3], device=level.device) for x in maps])
    anchors = place_anchors(rpn.anchor_generator, level, index, widths[level])
    boxes = clip(rpn.box2box_transform.apply_deltas(deltas, anchors), images.image_sizes[0])
    sides = boxes[:, 2:] - boxes[:, :2]
    scores = torch.where(sides.amin(1) > rpn.min_box_size, scores, -torch.inf)
    apart = boxes + (level * (boxes.max() + 1.0))[:, None]  # no two levels overlap
    limit = rpn.post_nms_topk[False]
    keep = NMS.apply(apart[None], scores[None], limit, rpn.nms_thresh, LOWEST)[:, 2]
    proposals = Instances(images.image_sizes[0])
    proposals.proposal_boxes = Boxes(boxes[keep])
    proposals.objectness_logits = scores[keep]
    return [proposals], {}


def _best(limit: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the highest scores (k,) of a level, their deltas (k, 4) and their index in H * W * A.

    Args:
        limit: of k.
        logits: (1, A, H, W).
        deltas: (1, A * 4, H, W).
    """
    scores, index = _highest(logits.permute(0, 2, 3, 1).reshape(-1), limit)
    return scores, deltas.permute(0, 2, 3, 1).reshape(-1, 4)[index], index


def _highest(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    count = scores.shape[0]  # a tensor in tracing
    best = count.clamp(max=limit) if isinstance(count, Tensor) else min(count, limit)
    values, index = scores.topk(best)
    return values, index


def place_anchors(
    generator: DefaultAnchorGenerator, level: Tensor, index: Tensor, width: Tensor
) -> Tensor:
    """Returns some of the anchors (k, 4).

    Args:
        generator: with as many anchors a position on all levels.
        level: (k,), from 0.
        index: (k,), in H * W * A of that level.
        width: (k,), W of that level.
    """
    cells = list(generator.cell_anchors)  # (A, 4) a level
    count = len(cells[0])
    position = torch.div(index, count, rounding_mode="trunc")
    row = torch.div(position, width, rounding_mode="trunc")
    corner = torch.stack([position - row * width, row], 1).float()  # (k, 2), as x and y
    strides = torch.tensor(generator.strides, dtype=torch.float32, device=level.device)
    shift = (corner + generator.offset) * strides[level][:, None]
    cell = (level - position) * count + index  # of all levels
    return torch.cat(cells)[cell] + torch.cat([shift, shift], 1)


def clip(boxes: Tensor, size: tuple[Any, Any]) -> Tensor:
    """Returns boxes (..., 4), xyxy, within an image of this (H, W)."""
    height, width = (torch.as_tensor(side, device=boxes.device) for side in size)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]).float())


def apply_deltas(transform: Box2BoxTransform, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Returns boxes (N, K * 4) from deltas (N, K * 4) and boxes (N, 4)."""
    boxes = boxes[:, None]  # (N, 1, 4)
    sides = boxes[..., 2:] - boxes[..., :2]
    weights = torch.tensor(transform.weights, dtype=torch.float32, device=deltas.device)
    scaled = deltas.reshape(deltas.shape[0], -1, 4) / weights
    centre = scaled[..., :2] * sides + (boxes[..., :2] + 0.5 * sides)
    half = 0.5 * (scaled[..., 2:].clamp(max=transform.scale_clamp).exp() * sides)
    return torch.cat([centre - half, centre + half], 2).reshape(deltas.shape)


def pool_boxes(pooler: ROIPooler, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
    """Returns (N, C, h, w), pooled from the map (1, C, H, W) of the level of each box."""
    levels = assign_boxes_to_levels(
        boxes,
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    places = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    pooled = [
        roi_align(
            *(x, F.pad(boxes[0].tensor[place], (1, 0)), pooler.output_size),  # of image 0
            *(pool.spatial_scale, pool.sampling_ratio, pool.aligned),
        )
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
    placed = clip(boxes.reshape(boxes.shape[0], -1, 4), image_shape).transpose(
        0, 1
    )  # (K or 1, N, 4)
    if boxes.shape[1] == 4:
        placed = placed.expand(by_class.shape[0], -1, -1)
    found = NMS.apply(placed, by_class, topk_per_image, nms_thresh, score_thresh)
    index = found[:, 0] * boxes.shape[0] + found[:, 2]  # in K * N
    best_scores, best = _highest(by_class.reshape(-1)[index], topk_per_image)
    result = Instances(image_shape)
    result.pred_boxes = Boxes(placed.reshape(-1, 4)[index[best]])
    result.scores = best_scores
    result.pred_classes = found[best, 0]
    return result, found[best, 2]


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
