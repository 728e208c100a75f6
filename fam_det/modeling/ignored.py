"""Keeps a student from learning that what is ignored in an image is background.

Detectron2's matchers label anchors and proposals as object, background, or neither. What would not
be background if an ignored region were an object gets the last label. The student stays as it is:
its matchers are replaced while it computes its losses.
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

NEITHER = -1  # label of an anchor or a proposal


@contextmanager
def ignoring(
    student: nn.Module, batched_inputs: Sequence[dict[str, Any]]
) -> Iterator[Sequence[dict[str, Any]]]:
    """Yields the inputs for a student that ignores what is ``ignored`` in them.

    Args:
        student: an R-CNN or RetinaNet; one without matchers takes ignored regions for background.
        batched_inputs: ``ignored`` are ``Instances`` of the fields of ``instances``; with
            ``unlabelled`` nothing in the image is background.
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
    for part, name, matcher, neither in matchers:
        setattr(part, name, _replaced(matcher, batched_inputs, neither))
    try:
        yield [_with_ignored(x) for x in batched_inputs]
    finally:
        for part, name, matcher, _ in matchers:
            setattr(part, name, matcher)


def _find_matchers(student: nn.Module) -> list[tuple[Any, str, Any, int]]:
    """Returns part, attribute and matcher, and the label of what is ignored.

    The later stages of a cascade know objects and background alone: there it is background.
    """
    parts = (student, *(getattr(student, x, None) for x in ("proposal_generator", "roi_heads")))
    names = {"anchor_matcher": NEITHER, "proposal_matcher": NEITHER, "proposal_matchers": 0}
    return [
        (part, name, getattr(part, name), neither)
        for part in parts
        for name, neither in names.items()
        if getattr(part, name, None)
    ]


def _replaced(matcher: Any, batched_inputs: Sequence[dict[str, Any]], neither: int) -> Any:
    if isinstance(matcher, list):
        return [IgnoringMatcher(x, batched_inputs, neither) for x in matcher]
    return IgnoringMatcher(matcher, batched_inputs, neither)


def _with_ignored(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns an input whose instances end with what is ignored."""
    groups = [inputs["instances"], inputs.get("ignored", ())]
    found = [x for x in groups if len(x)] or groups[:1]
    return inputs | {"instances": Instances.cat(found) if len(found) > 1 else found[0]}


class IgnoringMatcher:
    """A matcher for images whose last objects are ignored ones; it is called once for each image.

    Args:
        matcher: Detectron2's.
        batched_inputs: of these images, in the order of the calls.
        neither: label of what is ignored.
    """

    def __init__(
        self, matcher: Matcher, batched_inputs: Sequence[dict[str, Any]], neither: int = NEITHER
    ) -> None:
        self.matcher = matcher
        self.batched_inputs = batched_inputs
        self.neither = neither
        self.image = 0

    def __call__(self, iou: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the index of the matched object and the label of each of N boxes.

        Args:
            iou: (M, N) of all objects.
        """
        inputs = self.batched_inputs[self.image]
        count = len(iou) - len(inputs.get("ignored", ()))
        matches, labels = self.matcher(iou[:count])
        is_ignored = torch.full_like(labels, bool(inputs.get("unlabelled")), dtype=torch.bool)
        if count < len(iou):
            is_ignored |= iou[count:].amax(0) >= self.matcher.thresholds[1]
        labels[(labels == 0) & is_ignored] = self.neither
        self.image += 1  # at the end: out of GPU memory, Detectron2 calls it again
        return matches, labels
