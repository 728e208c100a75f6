"""What a teacher finds in an image, given to students of random weights so that they can be timed.

A random RPN and class predictor find as much as chance has it: of 80 classes none passes the score
threshold, of 3 every one does for every proposal, and the NMS of thousands of boxes may take longer
than a small student. So a student's last layers, which are computed, give what the teacher's give
on the same image, with the student's own number of proposals: equally many pass to its box head,
from the same levels, equally many candidates to NMS, and equally many detections to its mask head.
The hooks that do it are recorded by tracing, and so it is the same in an exported graph.
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

CERTAIN = 10.0  # logit of an object, and minus that of none
LAST_LAYERS = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred")
NO_BOXES = torch.zeros(0, 0)  # of a dense detector


@dataclass(frozen=True)
class Scene:
    """What the last layers of a detector give for one image, of A anchors a cell and K classes."""

    logits: list[Tensor]  # a level, (1, A, H, W) of an RPN or (1, A K, H, W) of a dense head
    deltas: list[Tensor]  # a level, (1, 4 A, H, W)
    probabilities: Tensor = NO_BOXES  # of an R-CNN's R proposals, (R, K + 1), background last
    box_deltas: Tensor = NO_BOXES  # of the proposals, (R, 4 K), or (R, 4) for all classes
    detections: int = 0  # how many there were

    @property
    def proposals(self) -> int:
        """Number of boxes that the box head sees, 0 of a dense detector."""
        return len(self.probabilities)


@torch.no_grad()
def watch(detector: Any, image: Tensor, topk: tuple[int, int] | None = None) -> Scene:
    """Returns what a detector finds in an image (3, H, W).

    ``topk`` are numbers of proposals in place of an R-CNN's own: of a level before NMS, of the
    image after it.
    """
    found: dict[str, Any] = {"boxes": (NO_BOXES, NO_BOXES)}

    def keep(name: str, inputs: Any, output: Any) -> None:
        found[name] = deepcopy(output)  # a dense detector takes the sigmoid in place

    with ExitStack() as stack:
        for name, module in _last_modules(detector).items():
            stack.enter_context(forward_hook(module, partial(keep, name)))
        if topk:
            generator = detector.proposal_generator
            for key, count in zip(("pre_nms_topk", "post_nms_topk"), topk, strict=True):
                stack.callback(setattr, generator, key, getattr(generator, key))
                setattr(generator, key, {False: count})
        detections = len(detect(detector, image)["scores"])
    (logits, deltas), (scores, box_deltas) = found["anchors"], found["boxes"]
    return Scene(logits, deltas, scores.softmax(1), box_deltas, detections)


def _last_modules(detector: Any) -> dict[str, nn.Module]:
    """Returns what gives logits and deltas: of anchors and, of an R-CNN, of boxes."""
    if not hasattr(detector, "roi_heads"):
        return {"anchors": detector.head}
    predictor = detector.roi_heads.box_predictor
    if isinstance(predictor, nn.ModuleList):
        predictor = predictor[-1]  # of a cascade
    return {"anchors": detector.proposal_generator.rpn_head, "boxes": predictor}


@torch.no_grad()
def stage(student: Any, image: Tensor, scene: Scene | None) -> None:
    """Makes a student find in an image (3, H, W) what a teacher finds there.

    Without a ``scene``, or where the teacher's anchors are others, it finds as many objects as it
    may return, among as many proposals as it may pass to its box head.
    """
    modules = _last_modules(student)
    for module in modules.values():
        for name in set(LAST_LAYERS) & set(dict(module.named_children())):
            for parameter in module.get_submodule(name).parameters():
                parameter.zero_()
    own = watch(student, image)
    if scene is None or [x.shape for x in scene.deltas] != [x.shape for x in own.deltas]:
        given = _crowd(own, student)
    else:
        given = _adapt(scene, own)
    modules["anchors"].register_forward_hook(partial(_add, (given.logits, given.deltas)))
    if "boxes" in modules:
        rows = (0, 0, 0, student.proposal_generator.post_nms_topk[False] - given.proposals)
        logits = F.pad(given.probabilities.clamp(min=1e-9).log(), rows, value=-CERTAIN)
        logits[given.proposals :, -1] = CERTAIN  # an exported NMS may keep a box more
        deltas = F.pad(given.box_deltas, rows)
        modules["boxes"].register_forward_hook(partial(_add, (logits, deltas)))


def _add(given: Any, module: nn.Module, args: Any, own: Any) -> Any:
    """Adds the given outputs to a module's own, zeros: tracing would leave out what is unused.

    Of boxes there are as many as the module has.
    """
    if isinstance(own, Tensor):
        return own + given[: own.shape[0]]
    return type(own)(_add(x, module, args, y) for x, y in zip(given, own, strict=True))


def _adapt(scene: Scene, own: Scene) -> Scene:
    """Returns a scene with the student's number of classes in place of the teacher's."""
    if not own.proposals:
        logits = [_fold_dense(*x) for x in zip(scene.logits, scene.deltas, own.logits, strict=True)]
        return replace(scene, logits=logits)
    classes = own.probabilities.shape[1] - 1
    objects, best = fold_classes(scene.probabilities[:, :-1], classes)
    background = 1 - objects.sum(1, keepdim=True)
    box_deltas = scene.box_deltas.unflatten(1, (-1, 4))  # (R, K or 1, 4)
    if own.box_deltas.shape[1] == 4:
        best = best[:, :1]
    best = best.clamp(max=box_deltas.shape[1] - 1)
    box_deltas = box_deltas.gather(1, best[..., None].expand(-1, -1, 4)).flatten(1)
    probabilities = torch.cat([objects, background], 1)
    return replace(scene, probabilities=probabilities, box_deltas=box_deltas)


def _fold_dense(logits: Tensor, deltas: Tensor, own: Tensor) -> Tensor:
    anchors = deltas.shape[1] // 4
    by_class = logits.unflatten(1, (anchors, -1)).movedim(2, -1)  # (1, A, H, W, K)
    folded, _ = fold_classes(by_class, own.shape[1] // anchors)
    return folded.movedim(-1, 2).flatten(1, 2)


def fold_classes(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns (..., K) scores as (..., count), and the class that each is of.

    Class k becomes class k modulo ``count``, where the highest counts. Nearly as many are above a
    threshold as before: the objects of an image are few beside its boxes. Classes beyond K have the
    lowest score of the box.
    """
    missing = -scores.shape[-1] % count
    lowest = scores.amin(-1, keepdim=True).expand(*scores.shape[:-1], missing)
    rounds = torch.cat([scores, lowest], -1).unflatten(-1, (-1, count))
    best, turn = rounds.max(-2)
    return best, turn * count + torch.arange(count, device=scores.device)


def _crowd(own: Scene, student: Any) -> Scene:
    """Returns a scene of as many objects as the student may return."""
    generator = torch.Generator().manual_seed(0)
    random = [torch.randn(x.shape, generator=generator).to(x) for x in own.logits]
    if not own.proposals:
        count = student.max_detections_per_image
        chosen = random[0].flatten().topk(min(count, random[0].numel())).indices
        logits = [torch.full_like(x, -CERTAIN) for x in random]
        logits[0].view(-1)[chosen] = CERTAIN
        return Scene(logits, own.deltas)
    heads, rows = student.roi_heads, student.proposal_generator.post_nms_topk[False]
    probabilities = own.probabilities.new_zeros(rows, own.probabilities.shape[1])
    probabilities[:, -1] = 1.0
    objects = torch.arange(min(_last_modules(student)["boxes"].test_topk_per_image, rows))
    probabilities[objects, objects % heads.num_classes] = 1.0
    probabilities[objects, -1] = 0.0
    return Scene(
        random, own.deltas, probabilities, own.box_deltas.new_zeros(rows, own.box_deltas.shape[1])
    )
