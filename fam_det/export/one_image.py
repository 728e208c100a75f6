"""Detectron2's inference for one image, which exports to fewer and smaller nodes.

The detections are the same. The difference is in the work around the networks, which costs as much
as thin networks do:

- only the best anchors of each level are computed and decoded, not all of them;
- NMS stops at the number of proposals or detections, and itself drops low scores;
- the pooled boxes are reordered once, not written into an array of all of them for each level.

N boxes, K classes, L levels, A anchors a position.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

MIN_LOGIT = -3e38  # above minus infinity, below every score


@contextmanager
def one_image(detector: nn.Module) -> Iterator[None]:
    """Patches those of a detector's modules that are Detectron2's own, to trace it."""
    padding = getattr(getattr(detector, "backbone", None), "padding_constraints", {})
    modules: list[Any] = list(detector.modules())
    with ExitStack() as stack:

        def replace(target: Any, name: str, function: Any) -> None:
            stack.enter_context(patch.object(target, name, function))

        if type(detector) is GeneralizedRCNN and not padding.get("square_size", 0):
            replace(detector, "preprocess_image", partial(preprocess_image, detector))
        for module in modules:
            if (
                type(module) is RPN
                and type(module.box2box_transform) is Box2BoxTransform
                and type(module.anchor_generator) is DefaultAnchorGenerator
            ):
                replace(module, "forward", partial(predict_proposals, module))
            elif (
                type(module) is ROIPooler
                and len(module.level_poolers) > 1
                and all(type(pool) is ROIAlign for pool in module.level_poolers)
            ):
                replace(module, "forward", partial(pool_boxes, module))
        replace(fast_rcnn, "fast_rcnn_inference_single_image", select_detections)
        replace(Box2BoxTransform, "apply_deltas", apply_deltas)
        yield


def preprocess_image(detector: Any, batched_inputs: list[dict[str, Tensor]]) -> ImageList:
    """Normalises an image, and pads it at the bottom and on the right."""
    image = (batched_inputs[0]["image"] - detector.pixel_mean) / detector.pixel_std
    height, width = image.shape[1:]  # tensors in tracing
    divisor = max(detector.backbone.size_divisibility, 1)
    bottom, right = (-height) % divisor, (-width) % divisor
    return ImageList(F.pad(image, (0, right, 0, bottom))[None], [(height, width)])


def predict_proposals(
    rpn: RPN, images: ImageList, features: dict[str, Tensor], _: Any = None
) -> tuple[list[Instances], dict[str, Tensor]]:
    """Returns the proposals of an RPN, the highest score first."""
    maps = [features[name] for name in rpn.in_features]
    topk = rpn.pre_nms_topk[False]
    best = [_select_topk(topk, *x) for x in zip(*rpn.rpn_head(maps), strict=True)]
    scores, deltas, index = (torch.cat(x) for x in zip(*best, strict=True))  # (k,), (k, 4), (k,)
    level = torch.cat([torch.full_like(x, i) for i, (*_, x) in enumerate(best)])
    widths = torch.stack([torch.as_tensor(x.shape[3], device=level.device) for x in maps])
    anchors = select_anchors(rpn.anchor_generator, level, index, widths[level])
    boxes = clip(rpn.box2box_transform.apply_deltas(deltas, anchors), images.image_sizes[0])
    sides = boxes[:, 2:] - boxes[:, :2]
    scores = torch.where(sides.amin(1) > rpn.min_box_size, scores, -torch.inf)
    boxes_for_nms = boxes + (level * (boxes.max() + 1.0))[:, None]  # no two levels overlap
    options = rpn.post_nms_topk[False], rpn.nms_thresh, MIN_LOGIT
    keep = NMS.apply(boxes_for_nms[None], scores[None], *options)[:, 2]
    proposals = Instances(images.image_sizes[0])
    proposals.proposal_boxes = Boxes(boxes[keep])
    proposals.objectness_logits = scores[keep]
    return [proposals], {}


def _select_topk(topk: int, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the highest logits (k,) of a level, their deltas (k, 4) and their index in H * W * A.

    Args:
        topk: the largest k.
        logits: (1, A, H, W).
        deltas: (1, A * 4, H, W).
    """
    scores, index = _topk(logits.permute(0, 2, 3, 1).reshape(-1), topk)
    return scores, deltas.permute(0, 2, 3, 1).reshape(-1, 4)[index], index


def _topk(scores: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    count = scores.shape[0]  # a tensor in tracing
    return scores.topk(count.clamp(max=topk) if isinstance(count, Tensor) else min(count, topk))


def select_anchors(
    generator: DefaultAnchorGenerator, level: Tensor, index: Tensor, width: Tensor
) -> Tensor:
    """Returns the anchors (k, 4) at some indices.

    Args:
        generator: with the same number of anchors a position on all levels.
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
    """Clips boxes (..., 4), xyxy, to an image of this (H, W)."""
    height, width = (torch.as_tensor(side, device=boxes.device) for side in size)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]).float())


def apply_deltas(transform: Box2BoxTransform, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Applies deltas (N, K * 4) to boxes (N, 4); returns boxes (N, K * 4)."""
    boxes = boxes[:, None]  # (N, 1, 4)
    sides = boxes[..., 2:] - boxes[..., :2]
    weights = torch.tensor(transform.weights, dtype=torch.float32, device=deltas.device)
    scaled = deltas.reshape(deltas.shape[0], -1, 4) / weights
    centre = scaled[..., :2] * sides + (boxes[..., :2] + 0.5 * sides)
    half = 0.5 * (scaled[..., 2:].clamp(max=transform.scale_clamp).exp() * sides)
    return torch.cat([centre - half, centre + half], 2).reshape(deltas.shape)


def pool_boxes(pooler: ROIPooler, maps: list[Tensor], boxes: list[Boxes]) -> Tensor:
    """Returns (N, C, h, w), pooled from the map (1, C, H, W) of each box's level."""
    levels = assign_boxes_to_levels(
        boxes,
        pooler.min_level,
        pooler.max_level,
        pooler.canonical_box_size,
        pooler.canonical_level,
    )
    indices = [(levels == level).nonzero()[:, 0] for level in range(len(maps))]
    pooled = [
        roi_align(
            *(x, F.pad(boxes[0].tensor[index], (1, 0)), pooler.output_size),  # of image 0
            *(pool.spatial_scale, pool.sampling_ratio, pool.aligned),
        )
        for pool, x, index in zip(pooler.level_poolers, maps, indices, strict=True)
    ]
    order = torch.cat(indices)
    inverse = torch.zeros_like(order).scatter(0, order, torch.ones_like(order).cumsum(0) - 1)
    return torch.cat(pooled)[inverse]


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
        boxes: (N, K * 4), or (N, 4) if all classes share them.
        scores: (N, K + 1), the background last.
        image_shape: (H, W).
        score_thresh: exclusive lower limit of the scores.
        nms_thresh: IoU above which the lower of two scores is dropped.
        topk_per_image: detections to keep.

    Returns:
        Detections, the highest score first, and the index of the box of each.
    """
    by_class = scores[:, :-1].t()  # (K, N)
    clipped = clip(boxes.reshape(boxes.shape[0], -1, 4), image_shape)
    clipped = clipped.transpose(0, 1)  # (K or 1, N, 4)
    if boxes.shape[1] == 4:
        clipped = clipped.expand(by_class.shape[0], -1, -1)
    selected = NMS.apply(clipped, by_class, topk_per_image, nms_thresh, score_thresh)
    index = selected[:, 0] * boxes.shape[0] + selected[:, 2]  # in K * N
    best_scores, best = _topk(by_class.reshape(-1)[index], topk_per_image)
    result = Instances(image_shape)
    result.pred_boxes = Boxes(clipped.reshape(-1, 4)[index[best]])
    result.scores = best_scores
    result.pred_classes = selected[best, 0]
    return result, selected[best, 2]


class NMS(torch.autograd.Function):
    """ONNX's NonMaxSuppression."""

    @staticmethod
    def forward(
        _: Any, boxes: Tensor, scores: Tensor, topk: int, nms_thresh: float, score_thresh: float
    ) -> Tensor:
        """Returns (M, 3): batch index, 0 and box index of each selected box, the best first.

        Args:
            _: unused.
            boxes: (B, N, 4), xyxy.
            scores: (B, N).
            topk: boxes to keep of each batch index.
            nms_thresh: IoU above which the lower of two scores is dropped.
            score_thresh: exclusive lower limit of the scores.
        """
        selected = []
        for batch, (x, y) in enumerate(zip(boxes, scores, strict=True)):
            valid = (y > score_thresh).nonzero()[:, 0]
            index = valid[nms(x[valid], y[valid], nms_thresh)[:topk]]
            selected.append(torch.stack([torch.full_like(index, batch), 0 * index, index], 1))
        return torch.cat(selected)

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, topk: int, nms_thresh: float, score_thresh: float
    ) -> Any:
        """Writes the node."""
        floats = [torch.tensor([x], dtype=torch.float32) for x in (nms_thresh, score_thresh)]
        constants = [g.op("Constant", value_t=x) for x in (torch.tensor([topk]), *floats)]
        axis = g.op("Constant", value_t=torch.tensor([1]))
        return g.op("NonMaxSuppression", boxes, g.op("Unsqueeze", scores, axis), *constants)
