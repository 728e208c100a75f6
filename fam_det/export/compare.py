"""How far an exported detector's detections are from the detector's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torchvision.ops import box_iou

Runner = Callable[[Tensor], dict[str, Tensor]]  # image to detections by name

INFINITE = float("inf")
CLEAR = 0.5  # score that an object is clear from


class Agreement(NamedTuple):
    """An exported detector beside the detector: how many detections, and how far apart."""

    detections: int
    boxes: float = 0.0  # largest difference of a coordinate, in pixels
    scores: float = 0.0  # largest difference of a score, or of a mask's cell

    @property
    def close(self) -> bool:
        """Whether the differences are those of rounding."""
        return self.boxes < 0.1 and self.scores < 1e-3

    def describe(self) -> str:
        """Returns a few words for the table."""
        if self.detections == 0:
            return "nothing detected; try another --image"
        if self.boxes == INFINITE:
            return f"other detections than the {self.detections} of PyTorch"
        if self.boxes == self.scores == 0.0:
            return f"{self.detections} boxes equal"
        return f"{self.detections} boxes within {self.boxes:.0e} px, scores {self.scores:.0e}"


class Similarity(NamedTuple):
    """A detector in 8 bits beside the detector: how many of its clear objects are found."""

    objects: int
    found: int

    @property
    def close(self) -> bool:
        """Whether it is the same detector at all: how good it is, its AP says."""
        return 3 * self.found >= self.objects  # one of random weights keeps about half

    def describe(self) -> str:
        """Returns a few words for the table."""
        if self.objects == 0:
            return "nothing detected; try another --image"
        return f"{self.found} of {self.objects} objects above {CLEAR}"


@torch.no_grad()
def compare(run: Runner, expected: Runner, image: Tensor) -> Agreement:
    """Compares on an image and on a part of it: an export must not be bound to one size.

    Equal scores of an RPN may be in any order, and NMS depends on it: in PyTorch that is the order
    of its sort, in ONNX that of the boxes. Where the first differs, the second counts.
    """
    found = _compare(run, expected, image)
    if found.close:
        return found
    with stable_sort():
        in_order = _compare(run, expected, image)
    return in_order if in_order.close else found


@contextmanager
def stable_sort() -> Iterator[None]:
    """Within this context tensors sort equal values in their order, as ONNX does."""
    sort = torch.Tensor.sort

    def stable(x: Tensor, dim: int = -1, descending: bool = False, **_: Any) -> Any:
        return sort(x, stable=True, dim=dim, descending=descending)

    with patch.object(torch.Tensor, "sort", stable):
        yield


def _compare(run: Runner, expected: Runner, image: Tensor) -> Agreement:
    both = [agreement(run(x), expected(x)) for x in _image_and_part(image)]
    detections, boxes, scores = zip(*both, strict=True)
    return Agreement(sum(detections), max(boxes), max(scores))


@torch.no_grad()
def compare_loosely(run: Runner, expected: Runner, image: Tensor) -> Similarity:
    """Compares the clear objects of an image and of a part of it."""
    both = [similarity(run(x), expected(x)) for x in _image_and_part(image)]
    return Similarity(sum(x.objects for x in both), sum(x.found for x in both))


def _image_and_part(image: Tensor) -> Iterator[Tensor]:
    height, width = (-(-side * 3 // 4) for side in image.shape[1:])
    yield image
    yield image[:, :height, :width].contiguous()


def similarity(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Similarity:
    """Counts clear objects, and those where a detection of the same class overlaps by half."""
    clear = expected["scores"] > CLEAR
    overlaps = box_iou(expected["pred_boxes"][clear], found["pred_boxes"])
    same = expected["pred_classes"][clear][:, None] == found["pred_classes"][None]
    matched = ((overlaps > 0.5) & same).any(1)
    return Similarity(len(matched), int(matched.sum()))


def agreement(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Agreement:
    """Compares detections; of equal scores either may come first.

    Every expected box is compared with the nearest one of its class and score; the difference is
    infinite where there is none, or where the numbers of detections differ.
    """
    count = len(expected["scores"])
    if len(found["scores"]) != count:
        return Agreement(max(count, 1), INFINITE, INFINITE)
    if count == 0:
        return Agreement(0)
    distances = (expected["pred_boxes"][:, None] - found["pred_boxes"][None]).abs().amax(2)
    same = expected["pred_classes"][:, None] == found["pred_classes"][None]  # (N, N)
    same &= (expected["scores"][:, None] - found["scores"][None]).abs() < 1e-3
    boxes, nearest = distances.masked_fill(~same, INFINITE).min(1)
    names = [name for name in ("scores", "pred_masks") if name in expected]
    others = [(found[name][nearest] - expected[name]).abs().max().item() for name in names]
    return Agreement(count, boxes.max().item(), max(others))
