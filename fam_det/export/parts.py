"""Where a detector's time goes: its backbone, FPN, RPN and heads."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import torch
from torch import Tensor, nn

from fam_det.export.clock import read_clock
from fam_det.export.formats import detect

REST = "the rest"
WARMUP, MIN_REPEATS = 2, 5
# By path. A part inside another one's module counts on its own: the bottom-up network, an FPN's
# backbone, inside the FPN, the masks inside ``roi_heads``.
PARTS = {
    "backbone.bottom_up": "backbone",
    "backbone": "FPN",
    "proposal_generator": "RPN",
    "roi_heads": "box head",
    "roi_heads.mask_pooler": "mask head",
    "roi_heads.mask_head": "mask head",
    "roi_heads.keypoint_pooler": "keypoint head",
    "roi_heads.keypoint_head": "keypoint head",
    "head": "head",  # of dense detectors
}


@torch.no_grad()
def part_seconds(
    detector: nn.Module, image: Tensor, seconds: float = 3.0, min_repeats: int = MIN_REPEATS
) -> dict[str, float]:
    """Measures the parts of a detector in PyTorch.

    Args:
        detector: any of Detectron2's, in eval mode.
        image: (3, H, W), float32 of 0 to 255 in the detector's channel order.
        seconds: to go on for.
        min_repeats: images to measure at least.

    Returns:
        The median seconds of an image in each part, in the order of ``PARTS``, then in "the rest":
        normalising and padding the image and, of a dense detector, its anchors and NMS. The NMS of
        proposals counts as RPN, that of detections as box head.
    """
    repeats: list[dict[str, float]] = []
    with _stopwatch(detector) as stopwatch:
        for _ in range(min(WARMUP, min_repeats // 2)):
            detect(detector, image)
        start = time.perf_counter()
        while len(repeats) < min_repeats or time.perf_counter() - start < seconds:
            stopwatch.reset()
            detect(detector, image)
            stopwatch.leave()
            repeats.append(stopwatch.seconds)
    return {part: median(x[part] for x in repeats) for part in repeats[0]}


class _Stopwatch:
    """Counts time for the innermost part that runs."""

    def __init__(self, parts: Iterable[str], device: torch.device) -> None:
        self.parts, self.device = [*dict.fromkeys(parts), REST], device
        self.reset()

    def reset(self) -> None:
        """Starts at zero, with the rest."""
        self.seconds, self.running = dict.fromkeys(self.parts, 0.0), [REST]
        self.since = read_clock(self.device.type)

    def enter(self, part: str) -> None:
        """Counts for a part from here on."""
        self._count()
        self.running.append(part)

    def leave(self) -> None:
        """Counts for the part around it again."""
        self._count()
        self.running.pop()

    def _count(self) -> None:
        now = read_clock(self.device.type)
        self.seconds[self.running[-1]] += now - self.since
        self.since = now


@contextmanager
def _stopwatch(detector: nn.Module) -> Iterator[_Stopwatch]:
    """Within this context the detector's parts enter and leave a stopwatch."""
    modules = dict(detector.named_modules())
    parts = {path: part for path, part in PARTS.items() if path in modules}
    if "backbone.bottom_up" not in parts:  # a backbone without an FPN
        parts["backbone"] = "backbone"
    stopwatch = _Stopwatch(parts.values(), next(detector.parameters()).device)
    with ExitStack() as stack:
        for path, part in parts.items():
            module = modules[path]
            enter = module.register_forward_pre_hook(lambda *_, p=part: stopwatch.enter(p))
            leave = module.register_forward_hook(lambda *_: stopwatch.leave())
            stack.callback(enter.remove)
            stack.callback(leave.remove)
        yield stopwatch
