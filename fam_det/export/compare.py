"""How far an exported detector's detections are from the detector's."""

from typing import NamedTuple

import torch
from torch import Tensor

from fam_det.export.formats import Runner

INFINITE = float("inf")


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
            return "nothing detected; give --image"
        if self.boxes == INFINITE:
            return f"other detections than the {self.detections} of PyTorch"
        if self.boxes == self.scores == 0.0:
            return f"{self.detections} boxes equal"
        return f"{self.detections} boxes within {self.boxes:.0e} px, scores {self.scores:.0e}"


@torch.no_grad()
def compare(run: Runner, expected: Runner, image: Tensor) -> Agreement:
    """Compares on an image and on a part of it: an export must not be bound to one size."""
    height, width = (-(-side * 3 // 4) for side in image.shape[1:])
    images = (image, image[:, :height, :width].contiguous())
    both = [agreement(run(x), expected(x)) for x in images]
    return Agreement(
        sum(x.detections for x in both), max(x.boxes for x in both), max(x.scores for x in both)
    )


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
