"""A loss through the teacher's own heads, which read the student's transformed maps.

A transform such as FAM turns the student's maps into the teacher's. So the frozen RPN and box head,
or RetinaNet's head, run on both, and what they say of the same anchors and boxes is compared.
Differences of the maps that the heads do not hear do not count, and no labels are needed.

Legend: N images, A anchors of all levels, R boxes of all images, K classes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

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
MAX_BOXES = 100  # of an image, the teacher's best proposals


def head_parts(teacher: Any, levels: Collection[str]) -> list[str]:
    """Returns the names of the teacher's heads that are compared.

    Raises:
        ValueError: a teacher without them, or maps that they read and that are not in ``levels``.
    """
    rpn: Any = getattr(teacher, "proposal_generator", None)
    heads: Any = getattr(teacher, "roi_heads", None)
    if isinstance(teacher, RetinaNet):
        parts, read = ["head"], teacher.head_in_features
    elif isinstance(rpn, RPN) and rpn.anchor_generator.box_dim == 4 and _has_box_head(heads):
        parts, read = ["proposal_generator", "roi_heads"], [*rpn.in_features, *heads.in_features]
    else:
        found = ", ".join(type(x).__name__ for x in (teacher, rpn, heads) if x is not None)
        raise ValueError(
            f"{KEY}: the teacher is {found}, expected a RetinaNet, or an RPN with StandardROIHeads "
            f"of one box head with a softmax; set {KEY} 0"
        )
    if missing := [name for name in read if name not in levels]:
        raise ValueError(
            f"{KEY}: the teacher's heads read {missing[0]}, the distilled levels are "
            f"{', '.join(levels)}; add it to MODEL.DISTILLER.LEVELS if both have it, or set {KEY} 0"
        )
    return parts


def _has_box_head(heads: Any) -> bool:
    if not isinstance(heads, StandardROIHeads) or isinstance(heads.box_predictor, nn.ModuleList):
        return False
    return not getattr(heads.box_predictor, "use_sigmoid_ce", False)  # of the main branch


def head_losses(
    teacher: Any,
    student: Maps,
    *,
    others: Maps,
    valid_sizes: Mapping[str, ValidSizes],
    image_sizes: Sequence[tuple[int, int]],
    input_scale: float = 1.0,
) -> dict[str, Tensor]:
    """Compares what the teacher's heads find in the student's transformed maps and in its own.

    Args:
        teacher: a detector that ``head_parts`` accepts, in eval mode.
        student: transformed maps (N, C_teacher, H, W) by level.
        others: the teacher's maps of the same shapes.
        valid_sizes: (h, w) of each image in cells, without padding, whose anchors do not count.
        image_sizes: (h, w) of each image in the student's pixels, without padding.
        input_scale: pixels of the teacher for one of the student, where its maps were resampled to
            the student's cells.

    Returns:
        Four scalars, all 0 for equal maps; those of boxes for an R-CNN only:
        ``head_anchor_classes``, the Bernoulli divergence of each anchor's scores, and
        ``head_anchor_deltas``, the absolute difference of its four deltas times the teacher's
        score, both summed and divided by the sum of the teacher's scores; ``head_box_classes``, the
        mean divergence of the class distributions at the teacher's proposals, and
        ``head_box_deltas``, the mean difference of the deltas, weighed by the class's probability.
    """
    with torch.no_grad():
        logits, deltas = _anchor_outputs(teacher, others)
    outputs = (*_anchor_outputs(teacher, student), logits, deltas)
    is_valid = _valid_anchors(teacher, others, logits, valid_sizes)
    found = _anchor_losses(*(torch.cat(x, 1)[is_valid] for x in outputs))
    losses = dict(zip(ANCHOR_LOSSES, found, strict=True))
    if isinstance(teacher, RetinaNet):
        return losses
    rpn, heads = teacher.proposal_generator, teacher.roi_heads
    anchors = rpn.anchor_generator([others[name] for name in rpn.in_features])
    objectness = [x.squeeze(2).float() for x in logits]  # NMS wants what boxes are decoded to
    proposals = rpn.predict_proposals(
        [_shrunk(x, input_scale) for x in anchors], objectness, deltas, list(image_sizes)
    )
    boxes = [x.proposal_boxes[:MAX_BOXES] for x in proposals]
    with torch.no_grad():
        expected = _box_outputs(heads, others, boxes)
    found = _box_losses(*_box_outputs(heads, student, boxes), *expected)
    return losses | dict(zip(BOX_LOSSES, found, strict=True))


def _valid_anchors(
    teacher: Any, maps: Maps, outputs: Sequence[Tensor], valid_sizes: Mapping[str, ValidSizes]
) -> Tensor:
    """Returns which anchors (N, A) are of cells that hold image."""
    is_dense = isinstance(teacher, RetinaNet)
    names = teacher.head_in_features if is_dense else teacher.proposal_generator.in_features
    masks = []
    for name, output in zip(names, outputs, strict=True):
        cells = torch.zeros_like(maps[name][:, 0], dtype=torch.bool)
        for image, (height, width) in zip(cells, valid_sizes[name], strict=True):
            image[:height, :width] = True
        per_cell = output.shape[1] // cells[0].numel()
        masks.append(cells.flatten(1).repeat_interleave(per_cell, 1))
    return torch.cat(masks, 1)


def _anchor_outputs(detector: Any, maps: Maps) -> tuple[list[Tensor], list[Tensor]]:
    """Returns logits (N, A, K), K = 1 of an RPN, and deltas (N, A, 4) of each level."""
    if isinstance(detector, RetinaNet):
        head, names, classes = detector.head, detector.head_in_features, detector.num_classes
    else:
        rpn = detector.proposal_generator
        head, names, classes = rpn.rpn_head, rpn.in_features, 1
    logits, deltas = head([maps[name] for name in names])
    return (
        [permute_to_N_HWA_K(_precise(x), classes) for x in logits],
        [permute_to_N_HWA_K(_precise(x), 4) for x in deltas],
    )


def _box_outputs(
    heads: StandardROIHeads, maps: Maps, boxes: Sequence[Boxes]
) -> tuple[Tensor, Tensor]:
    """Returns logits (R, K + 1) and deltas (R, 4 K), or (R, 4) where classes share them."""
    features = [_precise(maps[name]) for name in heads.box_in_features]  # the boxes follow
    pooled = heads.box_pooler(features, list(boxes))
    logits, deltas = heads.box_predictor(heads.box_head(pooled))
    return _precise(logits), _precise(deltas)


def _shrunk(anchors: Boxes, factor: float) -> Boxes:
    """Returns boxes about the same centres, with sides that are so many times shorter."""
    first, last = anchors.tensor[:, :2], anchors.tensor[:, 2:]
    middle, half = (first + last) / 2, (last - first) / (2 * factor)
    return Boxes(torch.cat([middle - half, middle + half], 1))


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _anchor_losses(
    own_logits: Tensor, own_deltas: Tensor, logits: Tensor, deltas: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns both losses of anchors, whose logits are (A, K) and deltas (A, 4)."""
    scores = logits.sigmoid()
    total = scores.sum().clamp(min=1.0)
    own, entropy = (
        F.binary_cross_entropy_with_logits(x, scores, reduction="sum") for x in (own_logits, logits)
    )
    apart = (own_deltas - deltas).abs().sum(1)
    return (own - entropy) / total, (scores.sum(1) * apart).sum() / total


def _box_losses(
    own_logits: Tensor, own_deltas: Tensor, logits: Tensor, deltas: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns both losses of boxes, of what ``_box_outputs`` returns."""
    log_p, log_q = logits.log_softmax(1), own_logits.log_softmax(1)
    scores = log_p[:, :-1].exp()  # the last one is the background
    apart = (own_deltas - deltas).abs().unflatten(1, (-1, 4)).sum(2)  # (R, K) or (R, 1)
    divergence = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return divergence / max(len(logits), 1), (scores * apart).sum() / scores.sum().clamp(min=1.0)
