"""What a detector costs, and how far an exported one is from it."""

import time
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fam_det.export.detectron2_export import TracingAdapter  # noqa: F401  before the analysis
from fam_det.export.exporting import Runner

from detectron2.utils.analysis import FlopCountAnalysis

SECONDS, LEAST, WARMUP = 3.0, 5, 2  # of a measurement; passes at least, and before it


class Agreement(NamedTuple):
    """An exported detector beside the detector.

    Attributes:
        detections: how many were compared.
        boxes: largest difference of a coordinate, in pixels.
        scores: largest difference of a score, or of a mask's cell.
    """

    detections: int
    boxes: float = 0.0
    scores: float = 0.0

    @property
    def close(self) -> bool:
        """Whether the differences are those of rounding."""
        return self.boxes < 0.1 and self.scores < 1e-3

    def describe(self) -> str:
        """In words, for the table."""
        if self.detections == 0:
            return "nothing detected; give --image"
        if self.boxes == float("inf"):
            return f"other detections than the {self.detections} of PyTorch"
        if self.boxes == self.scores == 0.0:
            return f"{self.detections} boxes equal"
        return f"{self.detections} boxes within {self.boxes:.0e} px, scores {self.scores:.0e}"


def count_parameters(detector: nn.Module) -> int:
    """All of them, frozen ones too."""
    return sum(x.numel() for x in detector.parameters())


def weights_size(detector: nn.Module) -> int:
    """Bytes of the state dict."""
    return sum(x.numel() * x.element_size() for x in detector.state_dict().values())


@torch.no_grad()
def count_flops(detector: nn.Module, image: Tensor) -> float:
    """Multiply-adds of one image as fvcore counts them; those of heads depend on its content."""
    analysis: Any = FlopCountAnalysis(detector, [{"image": image}])
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return float(analysis.tracer_warnings("none").total())


@torch.no_grad()
def latency(run: Runner, image: Tensor) -> float:
    """Median of the seconds of a forward pass."""
    for _ in range(WARMUP):
        run(image)
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < LEAST or time.perf_counter() < end:
        start = time.perf_counter()
        run(image)
        times.append(time.perf_counter() - start)
    return median(times)


@torch.no_grad()
def compare(run: Runner, oracle: Runner, image: Tensor) -> Agreement:
    """Compare on an image and on a part of it: an export must not be bound to one size."""
    height, width = (-(-side * 3 // 4) for side in image.shape[1:])
    parts = (image, image[:, :height, :width].contiguous())
    both = [agreement(run(x), oracle(x)) for x in parts]
    return Agreement(
        sum(x.detections for x in both), max(x.boxes for x in both), max(x.scores for x in both)
    )


def agreement(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Agreement:
    """Compare detections; of equal scores either may come first.

    Every expected box is compared with the nearest one of its class and score; the difference is
    infinite where there is none, or where the numbers of detections differ.
    """
    count = len(expected["scores"])
    if len(found["scores"]) != count:
        return Agreement(max(count, 1), float("inf"), float("inf"))
    if count == 0:
        return Agreement(0)
    apart = (expected["pred_boxes"][:, None] - found["pred_boxes"][None]).abs().amax(2)  # (N, N)
    same = expected["pred_classes"][:, None] == found["pred_classes"][None]
    same &= (expected["scores"][:, None] - found["scores"][None]).abs() < 1e-3
    boxes, nearest = apart.masked_fill(~same, float("inf")).min(1)
    names = [name for name in ("scores", "pred_masks") if name in expected]
    others = [(found[name][nearest] - expected[name]).abs().max().item() for name in names]
    return Agreement(count, boxes.max().item(), max(others))
