"""Compares the outputs of an exported network with those in PyTorch."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.ops import box_iou

Runner = Callable[[Tensor], dict[str, Tensor]]  # image to detections by name

NOTHING = "nothing detected; try another --image"
MIN_SCORE = MIN_IOU = 0.5  # of the objects that ``similarity`` counts


class Comparison(NamedTuple):
    """Whether an exported network is the one in PyTorch, and a few words for the table."""

    close: bool
    text: str


class Agreement(NamedTuple):
    """The differences between an exported detector and the one in PyTorch, as a comparison."""

    detections: int
    boxes: float = 0.0  # largest difference of a coordinate, in pixels
    scores: float = 0.0  # largest difference of a score, or of a mask's cell

    @property
    def close(self) -> bool:
        """Whether rounding explains the differences."""
        return self.boxes < 0.1 and self.scores < 1e-3

    @property
    def text(self) -> str:
        """A few words for the table."""
        if self.detections == 0:
            return NOTHING
        if math.isinf(self.boxes):
            return f"other detections than the {self.detections} of PyTorch"
        if self.boxes == self.scores == 0.0:
            return f"{self.detections} boxes equal"
        return f"{self.detections} boxes within {self.boxes:.0e} px, scores {self.scores:.0e}"


@torch.no_grad()
def compare(run: Runner, expected: Runner, image: Tensor) -> Agreement:
    """Compares on an image and on a crop of it: an export must accept images of any size.

    NMS depends on the order of equal scores, which is that of its sort in PyTorch, and that of the
    boxes in ONNX. If the first differs, the second counts.
    """
    result = _compare(run, expected, image)
    if result.close:
        return result
    with stable_sort():
        stable_result = _compare(run, expected, image)
    return stable_result if stable_result.close else result


@contextmanager
def stable_sort() -> Iterator[None]:
    """Makes ``Tensor.sort`` stable in this context, as ONNX sorts."""
    sort = torch.Tensor.sort

    def stable(x: Tensor, dim: int = -1, descending: bool = False, **_: Any) -> Any:
        return sort(x, stable=True, dim=dim, descending=descending)

    with patch.object(torch.Tensor, "sort", stable):
        yield


def _compare(run: Runner, expected: Runner, image: Tensor) -> Agreement:
    both = [agreement(run(x), expected(x)) for x in _image_and_crop(image)]
    detections, boxes, scores = zip(*both, strict=True)
    return Agreement(sum(detections), max(boxes), max(scores))


@torch.no_grad()
def compare_loosely(run: Runner, expected: Runner, image: Tensor) -> Comparison:
    """Compares an 8-bit detector's objects in an image and in a crop of it.

    It is close if it is the same detector at all; its AP says how good it is.
    """
    both = [similarity(run(x), expected(x)) for x in _image_and_crop(image)]
    objects, matched = map(sum, zip(*both, strict=True))
    text = f"{matched} of {objects} objects above {MIN_SCORE}" if objects else NOTHING
    return Comparison(3 * matched >= objects, text)  # with random weights about half match


def _image_and_crop(image: Tensor) -> Iterator[Tensor]:
    height, width = (-(-side * 3 // 4) for side in image.shape[1:])
    yield image
    yield image[:, :height, :width].contiguous()


def similarity(detections: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[int, int]:
    """Counts the expected objects with a high score, and those that a detection matches."""
    keep = expected["scores"] > MIN_SCORE
    ious = box_iou(expected["pred_boxes"][keep], detections["pred_boxes"])
    same = expected["pred_classes"][keep][:, None] == detections["pred_classes"][None]
    matched = ((ious > MIN_IOU) & same).any(1)
    return len(matched), int(matched.sum())


def agreement(detections: dict[str, Tensor], expected: dict[str, Tensor]) -> Agreement:
    """Compares each expected box with the nearest detection of its class and score.

    The difference is infinite without such a detection, or if the numbers of detections differ.
    """
    count = len(expected["scores"])
    if len(detections["scores"]) != count:
        return Agreement(max(count, 1), math.inf, math.inf)
    if count == 0:
        return Agreement(0)
    distances = (expected["pred_boxes"][:, None] - detections["pred_boxes"][None]).abs().amax(2)
    same = expected["pred_classes"][:, None] == detections["pred_classes"][None]  # (N, N)
    same &= (expected["scores"][:, None] - detections["scores"][None]).abs() < 1e-3
    boxes, nearest = distances.masked_fill(~same, math.inf).min(1)
    names = [name for name in ("scores", "pred_masks") if name in expected]
    scores = [(detections[name][nearest] - expected[name]).abs().max().item() for name in names]
    return Agreement(count, boxes.max().item(), max(scores))
