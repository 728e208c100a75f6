"""Records a teacher's outputs, and makes students with random weights return them, to time these.

The number of detections of random weights is arbitrary: of 80 classes none passes the score
threshold, of 3 each one does for every proposal, and NMS of thousands of boxes may take longer than
a small student. So a student's last layers are computed, but return the teacher's outputs for the
same image and the student's number of proposals. As many proposals then reach its box head, from
the same levels, as many candidates NMS, and as many detections its mask head. Tracing records the
hooks, so an exported graph does the same.
"""

from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.export.formats import detect
from fam_det.modeling.hooks import forward_hook

LOGIT = 10.0  # of a certain object; of certain background its negative
LAST_LAYERS = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred")
NO_BOXES = torch.zeros(0, 0)  # of a dense detector


@dataclass(frozen=True)
class RecordedOutputs:
    """Outputs of a detector's last layers for one image, with A anchors per cell and K classes."""

    logits: list[Tensor]  # by level, (1, A, H, W) of an RPN or (1, A K, H, W) of a dense head
    deltas: list[Tensor]  # by level, (1, 4 A, H, W)
    probabilities: Tensor = NO_BOXES  # of an R-CNN's R proposals, (R, K + 1), background last
    box_deltas: Tensor = NO_BOXES  # of the proposals, (R, 4 K), or (R, 4) if class-agnostic
    detections: int = 0  # their number

    @property
    def proposals(self) -> int:
        """Returns the number of boxes that the box head gets, 0 for a dense detector."""
        return len(self.probabilities)


@torch.no_grad()
def record_outputs(
    detector: Any, image: Tensor, topk: tuple[int, int] | None = None
) -> RecordedOutputs:
    """Returns a detector's outputs for an image (3, H, W).

    ``topk`` replaces an R-CNN's numbers of proposals: per level before NMS, per image after it.
    """
    outputs: dict[str, Any] = {"boxes": (NO_BOXES, NO_BOXES)}

    def record(name: str, inputs: Any, output: Any) -> None:
        outputs[name] = deepcopy(output)  # a dense detector applies the sigmoid in place

    with ExitStack() as stack:
        for name, module in _last_modules(detector).items():
            stack.enter_context(forward_hook(module, partial(record, name)))
        if topk:
            generator = detector.proposal_generator
            for key, count in zip(("pre_nms_topk", "post_nms_topk"), topk, strict=True):
                stack.callback(setattr, generator, key, getattr(generator, key))
                setattr(generator, key, {False: count})
        detections = len(detect(detector, image)["scores"])
    logits, deltas = outputs["anchors"][:2]  # FCOS has a centerness as well
    scores, box_deltas = outputs["boxes"]
    return RecordedOutputs(logits, deltas, scores.softmax(1), box_deltas, detections)


def _last_modules(detector: Any) -> dict[str, nn.Module]:
    """Returns the modules that return logits and deltas of anchors and, in an R-CNN, of boxes."""
    if not hasattr(detector, "roi_heads"):
        return {"anchors": detector.head}
    predictor = detector.roi_heads.box_predictor
    if isinstance(predictor, nn.ModuleList):
        predictor = predictor[-1]  # of a cascade
    return {"anchors": detector.proposal_generator.rpn_head, "boxes": predictor}


@torch.no_grad()
def replay_outputs(student: Any, image: Tensor, recorded: RecordedOutputs | None) -> None:
    """Makes a student return the teacher's ``recorded`` outputs for an image (3, H, W).

    If they are None, or of other anchors, it returns its maximal numbers of proposals and objects.
    """
    modules = _last_modules(student)
    for module in modules.values():
        for name in set(LAST_LAYERS) & set(dict(module.named_children())):
            for parameter in module.get_submodule(name).parameters():
                parameter.zero_()
    zeros = record_outputs(student, image)
    if recorded is None or [x.shape for x in recorded.deltas] != [x.shape for x in zeros.deltas]:
        outputs = _maximal_outputs(zeros, student)
    else:
        outputs = _adapt_classes(recorded, zeros)
    modules["anchors"].register_forward_hook(partial(_add, (outputs.logits, outputs.deltas)))
    if "boxes" in modules:
        # Padded with background: an exported NMS may keep one box more.
        rows = (0, 0, 0, student.proposal_generator.post_nms_topk[False] - outputs.proposals)
        logits = F.pad(outputs.probabilities.clamp(min=1e-9).log(), rows, value=-LOGIT)
        logits[outputs.proposals :, -1] = LOGIT
        deltas = F.pad(outputs.box_deltas, rows)
        modules["boxes"].register_forward_hook(partial(_add, (logits, deltas)))


def _add(recorded: Any, module: nn.Module, args: Any, zeros: Any) -> Any:
    """Adds recorded outputs, of as many boxes as there are, to a module's zeros.

    If they replaced the zeros, tracing would drop the module as unused. Other outputs stay.
    """
    if isinstance(zeros, Tensor):
        return zeros + recorded[: zeros.shape[0]]
    added = [_add(x, module, args, y) for x, y in zip(recorded, zeros, strict=False)]
    return type(zeros)([*added, *zeros[len(recorded) :]])


def _adapt_classes(recorded: RecordedOutputs, student: RecordedOutputs) -> RecordedOutputs:
    """Returns outputs with the student's number of classes in place of the teacher's."""
    if not student.proposals:
        logits = [
            _fold_dense(*level)
            for level in zip(recorded.logits, recorded.deltas, student.logits, strict=True)
        ]
        return replace(recorded, logits=logits)
    classes = student.probabilities.shape[1] - 1
    objects, best = fold_classes(recorded.probabilities[:, :-1], classes)
    background = 1 - objects.sum(1, keepdim=True)
    box_deltas = recorded.box_deltas.unflatten(1, (-1, 4))  # (R, K or 1, 4)
    if student.box_deltas.shape[1] == 4:
        best = best[:, :1]
    best = best.clamp(max=box_deltas.shape[1] - 1)
    box_deltas = box_deltas.gather(1, best[..., None].expand(-1, -1, 4)).flatten(1)
    probabilities = torch.cat([objects, background], 1)
    return replace(recorded, probabilities=probabilities, box_deltas=box_deltas)


def _fold_dense(logits: Tensor, deltas: Tensor, student_logits: Tensor) -> Tensor:
    anchors = deltas.shape[1] // 4
    by_class = logits.unflatten(1, (anchors, -1)).movedim(2, -1)  # (1, A, H, W, K)
    folded, _ = fold_classes(by_class, student_logits.shape[1] // anchors)
    return folded.movedim(-1, 2).flatten(1, 2)


def fold_classes(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns (..., K) scores as (..., count), and the original class of each.

    Class k becomes class k modulo ``count``, with the highest of their scores. Nearly as many stay
    above a threshold, as an image has few objects beside its boxes. If ``count`` is above K, the
    additional classes get the box's lowest score.
    """
    missing = -scores.shape[-1] % count
    lowest = scores.amin(-1, keepdim=True).expand(*scores.shape[:-1], missing)
    groups = torch.cat([scores, lowest], -1).unflatten(-1, (-1, count))
    best, group = groups.max(-2)
    return best, group * count + torch.arange(count, device=scores.device)


def _maximal_outputs(zeros: RecordedOutputs, student: Any) -> RecordedOutputs:
    """Returns outputs with as many objects as the student may return."""
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(x.shape, generator=generator).to(x) for x in zeros.logits]
    if not zeros.proposals:
        count = student.max_detections_per_image
        objects = random[0].flatten().topk(min(count, random[0].numel())).indices
        logits = [torch.full_like(x, -LOGIT) for x in random]
        logits[0].view(-1)[objects] = LOGIT
        return RecordedOutputs(logits, [x + 0.1 for x in zeros.deltas])  # FCOS's are empty at 0
    heads, rows = student.roi_heads, student.proposal_generator.post_nms_topk[False]
    probabilities = zeros.probabilities.new_zeros(rows, zeros.probabilities.shape[1])
    probabilities[:, -1] = 1.0
    objects = torch.arange(min(_last_modules(student)["boxes"].test_topk_per_image, rows))
    probabilities[objects, objects % heads.num_classes] = 1.0
    probabilities[objects, -1] = 0.0
    box_deltas = zeros.box_deltas.new_zeros(rows, zeros.box_deltas.shape[1])
    return RecordedOutputs(random, zeros.deltas, probabilities, box_deltas)
