"""What a detector found of an image's objects, in numbers that people read."""

from typing import NamedTuple

import torch
from torch import Tensor

from detectron2.structures import Boxes, Instances, pairwise_iou

LEAST_IOU = 0.5


class Found(NamedTuple):
    """How many objects there are, how many were found, and how many detections match none."""

    objects: int
    found: int
    wrong: int

    def __str__(self) -> str:
        """Such as ``5 of 6 objects found, 1 false detection``."""
        objects = "object" if self.objects == 1 else "objects"
        wrong = {0: "no false detections", 1: "1 false detection"}
        return (
            f"{self.found} of {self.objects} {objects} found, "
            f"{wrong.get(self.wrong, f'{self.wrong} false detections')}"
        )


def match(boxes: Tensor, classes: Tensor, detections: Instances) -> Found:
    """Detections in order of score take the object of their class that they cover best.

    Args:
        boxes: (N, 4) of the objects, xyxy.
        classes: (N,) of the objects.
        detections: of a detector, those that count.
    """
    detections = detections[detections.scores.argsort(descending=True)]
    overlaps = pairwise_iou(detections.pred_boxes, Boxes(boxes))  # (M, N)
    overlaps[detections.pred_classes[:, None] != classes[None, :]] = 0.0
    free = torch.ones(len(boxes), dtype=torch.bool)
    for overlap in overlaps if len(boxes) else ():
        best, index = (overlap * free).max(0)
        if best >= LEAST_IOU:
            free[index] = False
    found = int((~free).sum())
    return Found(len(boxes), found, len(detections) - found)
