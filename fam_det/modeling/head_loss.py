"""A loss through the teacher's own heads, which read the student's transformed maps.

A transform such as FAM turns the student's maps into the teacher's. So the frozen RPN and box head,
or RetinaNet's head, run on both, and their outputs for the same anchors and boxes are compared.
Differences of the maps to which the heads do not react are ignored, and no labels are needed.

Legend: N images, A anchors of all levels, R boxes of all images, K classes.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core.losses import ValidSizes

from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes

Maps = Mapping[str, Tensor]
ANCHOR_LOSSES = ("head_anchor_classes", "head_anchor_deltas")
BOX_LOSSES = ("head_box_classes", "head_box_deltas")
HEAD_LOSSES = {*ANCHOR_LOSSES, *BOX_LOSSES}
KEY = "MODEL.DISTILLER.HEAD_WEIGHT"
MAX_BOXES = 100  # the teacher's best proposals of an image


def head_parts(teacher: Any, levels: Collection[str]) -> list[str]:
    """Returns the names of the teacher's heads whose outputs are compared.

    Raises:
        ValueError: the teacher lacks them, or they read maps that are not in ``levels``.
    """
    rpn: Any = getattr(teacher, "proposal_generator", None)
    heads: Any = getattr(teacher, "roi_heads", None)
    if isinstance(teacher, RetinaNet):
        parts, in_features = ["head"], teacher.head_in_features
    elif isinstance(rpn, RPN) and rpn.anchor_generator.box_dim == 4 and has_box_head(heads):
        parts = ["proposal_generator", "roi_heads"]
        in_features = [*rpn.in_features, *heads.in_features]
    else:
        types = ", ".join(type(x).__name__ for x in (teacher, rpn, heads) if x is not None)
        raise ValueError(
            f"{KEY}: the teacher is {types}, expected a RetinaNet, or an RPN with StandardROIHeads "
            f"of one box head with a softmax; set {KEY} 0"
        )
    if missing := [name for name in in_features if name not in levels]:
        raise ValueError(
            f"{KEY}: the teacher's heads read {missing[0]}, the distilled levels are "
            f"{', '.join(levels)}; add it to MODEL.DISTILLER.LEVELS if both have it, or set {KEY} 0"
        )
    return parts


def has_box_head(heads: Any) -> TypeGuard[StandardROIHeads]:
    """Returns whether these are ROI heads with one box head, whose classes have a softmax."""
    if not isinstance(heads, StandardROIHeads) or isinstance(heads.box_predictor, nn.ModuleList):
        return False
    return not getattr(heads.box_predictor, "use_sigmoid_ce", False)  # of the main branch


def head_losses(
    teacher: Any,
    features: Maps,
    *,
    teacher_features: Maps,
    valid_sizes: Mapping[str, ValidSizes],
    image_sizes: Sequence[tuple[int, int]],
    input_scale: float = 1.0,
) -> dict[str, Tensor]:
    """Compares the outputs of the teacher's heads on the student's transformed maps and on its own.

    Args:
        teacher: a detector that ``head_parts`` accepts, in eval mode.
        features: the student's transformed maps (N, C_teacher, H, W) by level.
        teacher_features: maps of the same shapes.
        valid_sizes: (h, w) of each image in cells; anchors of the padding are ignored.
        image_sizes: (h, w) of each image in the student's pixels, without padding.
        input_scale: size of the teacher's images over that of the student's, if the teacher's maps
            were resampled to the student's cells.

    Returns:
        Four scalars, all 0 for equal maps; those of boxes for an R-CNN only:
        ``head_anchor_classes``, the KL divergence of the Bernoulli scores of each anchor, and
        ``head_anchor_deltas``, the L1 distance of its deltas times the teacher's score, both summed
        and divided by the sum of the teacher's scores; ``head_box_classes``, the mean KL divergence
        of the class distributions at the teacher's proposals, and ``head_box_deltas``, the mean L1
        distance of the deltas, weighted by the class's probability.
    """
    with torch.no_grad():
        logits, deltas = _anchor_outputs(teacher, teacher_features)
    outputs = (*_anchor_outputs(teacher, features), logits, deltas)
    is_valid = _valid_anchors(teacher, teacher_features, logits, valid_sizes)
    values = _anchor_losses(*(torch.cat(x, 1)[is_valid] for x in outputs))
    losses = dict(zip(ANCHOR_LOSSES, values, strict=True))
    if isinstance(teacher, RetinaNet):
        return losses
    rpn, heads = teacher.proposal_generator, teacher.roi_heads
    anchors = rpn.anchor_generator([teacher_features[name] for name in rpn.in_features])
    anchors = [_downscale(x, input_scale) for x in anchors]
    objectness = [x.squeeze(2).float() for x in logits]  # NMS needs the dtype of decoded boxes
    proposals = rpn.predict_proposals(anchors, objectness, deltas, list(image_sizes))
    boxes = [x.proposal_boxes[:MAX_BOXES] for x in proposals]
    with torch.no_grad():
        teacher_outputs = box_outputs(heads, teacher_features, boxes)
    values = _box_losses(*box_outputs(heads, features, boxes), *teacher_outputs)
    return losses | dict(zip(BOX_LOSSES, values, strict=True))


def _anchor_head(detector: Any) -> tuple[Any, Sequence[str], int]:
    """Returns the head on anchors, the names of its maps, and K."""
    if isinstance(detector, RetinaNet):
        return detector.head, detector.head_in_features, detector.num_classes
    rpn = detector.proposal_generator
    return rpn.rpn_head, rpn.in_features, 1


def _valid_anchors(
    teacher: Any, maps: Maps, outputs: Sequence[Tensor], valid_sizes: Mapping[str, ValidSizes]
) -> Tensor:
    """Returns a mask (N, A) of the anchors in cells that are not padding."""
    masks = []
    for name, output in zip(_anchor_head(teacher)[1], outputs, strict=True):
        cells = torch.zeros_like(maps[name][:, 0], dtype=torch.bool)
        for image, (height, width) in zip(cells, valid_sizes[name], strict=True):
            image[:height, :width] = True
        masks.append(cells.flatten(1).repeat_interleave(output.shape[1] // cells[0].numel(), 1))
    return torch.cat(masks, 1)


def _anchor_outputs(detector: Any, maps: Maps) -> tuple[list[Tensor], list[Tensor]]:
    """Returns logits (N, A, K), K = 1 of an RPN, and deltas (N, A, 4) of each level."""
    head, in_features, num_classes = _anchor_head(detector)
    logits, deltas = head([maps[name] for name in in_features])
    return (
        [permute_to_N_HWA_K(_to_float32(x), num_classes) for x in logits],
        [permute_to_N_HWA_K(_to_float32(x), 4) for x in deltas],
    )


def box_outputs(
    heads: StandardROIHeads, maps: Maps, boxes: Sequence[Boxes]
) -> tuple[Tensor, Tensor]:
    """Returns logits (R, K + 1) and deltas (R, 4 K), or (R, 4) if classes share them."""
    features = [_to_float32(maps[name]) for name in heads.box_in_features]  # ROIAlign casts boxes
    pooled = heads.box_pooler(features, list(boxes))
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    return _to_float32(logits), _to_float32(deltas)


def _downscale(anchors: Boxes, factor: float) -> Boxes:
    """Returns boxes with the same centres, and sides divided by the factor."""
    top_left, bottom_right = anchors.tensor[:, :2], anchors.tensor[:, 2:]
    centers, half = (top_left + bottom_right) / 2, (bottom_right - top_left) / (2 * factor)
    return Boxes(torch.cat([centers - half, centers + half], 1))


def _to_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _anchor_losses(
    logits: Tensor, deltas: Tensor, teacher_logits: Tensor, teacher_deltas: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns both losses of anchors, from logits (A, K) and deltas (A, 4)."""
    scores = teacher_logits.sigmoid()
    total = scores.sum().clamp(min=1.0)
    bce = partial(F.binary_cross_entropy_with_logits, target=scores, reduction="sum")
    l1 = (deltas - teacher_deltas).abs().sum(1)
    return (bce(logits) - bce(teacher_logits)) / total, (scores.sum(1) * l1).sum() / total


def _box_losses(
    logits: Tensor, deltas: Tensor, teacher_logits: Tensor, teacher_deltas: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns both losses of boxes, from outputs of ``box_outputs``."""
    log_p, log_q = teacher_logits.log_softmax(1), logits.log_softmax(1)
    scores = log_p[:, :-1].exp()  # without the background
    l1 = (deltas - teacher_deltas).abs().unflatten(1, (-1, 4)).sum(2)  # (R, K) or (R, 1)
    divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return divergence / max(len(logits), 1), (scores * l1).sum() / scores.sum().clamp(min=1.0)
