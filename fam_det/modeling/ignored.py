"""Keeps a student from learning that ignored regions of an image are background.

Detectron2's matchers label anchors and proposals as object (1), background (0) or ignored (-1). A
background one that would not be background if an ignored region were an object becomes ignored. The
student is not changed: its matchers are replaced while it computes its losses.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.modeling.matcher import Matcher
from detectron2.structures import Instances
from detectron2.utils.logger import log_first_n

IGNORE = -1  # Detectron2's label of an anchor or a proposal that no loss counts


@contextmanager
def ignoring(
    student: nn.Module, batched_inputs: Sequence[dict[str, Any]]
) -> Iterator[Sequence[dict[str, Any]]]:
    """Replaces the student's matchers, and yields the inputs with ignored objects as instances.

    Args:
        student: an R-CNN or RetinaNet; one without matchers takes ignored regions for background.
        batched_inputs: may have ``ignored``, ``Instances`` with the fields of ``instances``, and
            ``unlabelled``: nothing in the image is background then.
    """
    if not any(len(x.get("ignored", ())) for x in batched_inputs):
        yield batched_inputs
        return
    matchers = _find_matchers(student)
    if not matchers:
        name = type(student).__name__
        if any(x.get("unlabelled") for x in batched_inputs):
            raise ValueError(f"DATASETS.UNLABELLED: got images of it, but {name} has no matcher")
        log_first_n(logging.WARNING, f"{name} has no matcher: ignored objects are background")
        yield batched_inputs
        return
    for owner, name, matcher, label in matchers:
        # A cascade has a list of them, one for each stage.
        replaced = (
            [IgnoringMatcher(x, batched_inputs, label) for x in matcher]
            if isinstance(matcher, list)
            else IgnoringMatcher(matcher, batched_inputs, label)
        )
        setattr(owner, name, replaced)
    try:
        yield [_with_ignored(x) for x in batched_inputs]
    finally:
        for owner, name, matcher, _ in matchers:
            setattr(owner, name, matcher)


def _find_matchers(student: nn.Module) -> list[tuple[Any, str, Any, int]]:
    """Returns the owner, attribute and value of each matcher, and its label of ignored boxes.

    The later stages of a cascade have no label for ignored boxes: there they are background.
    """
    owners = (student, *(getattr(student, x, None) for x in ("proposal_generator", "roi_heads")))
    labels = {"anchor_matcher": IGNORE, "proposal_matcher": IGNORE, "proposal_matchers": 0}
    return [
        (owner, name, getattr(owner, name), label)
        for owner in owners
        for name, label in labels.items()
        if getattr(owner, name, None)
    ]


def _with_ignored(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns an input whose ignored instances follow the others."""
    instances, ignored = inputs["instances"], inputs.get("ignored", ())
    if not len(ignored):
        return inputs
    # Detectron2's instances of an image without objects have no gt_masks or gt_keypoints to join.
    joined = Instances.cat([instances, ignored]) if len(instances) else ignored
    return inputs | {"instances": joined}


class IgnoringMatcher:
    """A matcher for images whose last instances are ignored ones; called once for each image.

    Args:
        matcher: Detectron2's.
        batched_inputs: of these images, in the order of the calls.
        ignore_label: label of ignored boxes.
    """

    def __init__(
        self,
        matcher: Matcher,
        batched_inputs: Sequence[dict[str, Any]],
        ignore_label: int = IGNORE,
    ) -> None:
        self.matcher = matcher
        self.batched_inputs = batched_inputs
        self.ignore_label = ignore_label
        self.image = 0

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the index of the matched object and the label of each of N boxes.

        Args:
            iou: (M, N) of all objects, the ignored ones last.
        """
        inputs = self.batched_inputs[self.image]
        count = len(iou) - len(inputs.get("ignored", ()))
        matches, labels = self.matcher(iou[:count])
        is_ignored = torch.full_like(labels, bool(inputs.get("unlabelled")), dtype=torch.bool)
        if count < len(iou):
            is_ignored |= iou[count:].amax(0) >= self.matcher.thresholds[1]
        labels[(labels == 0) & is_ignored] = self.ignore_label
        self.image += 1  # last: Detectron2 calls this again where it ran out of GPU memory
        return matches, labels
