"""Where a detector's time goes: its backbone, FPN, RPN and heads."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

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


def read_clock(device: str) -> float:
    """Returns seconds, of which the differences count; ``device`` is "cpu" or "cuda".

    One thread is timed by what it computes, as on a machine with nothing else to do: other
    processes, which may take most of a shared machine, do not count. Several threads wait for one
    another, and a GPU is waited for, so there it is the time that passes.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


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
    modules = dict(detector.named_modules())
    parts = {path: part for path, part in PARTS.items() if path in modules}
    if "backbone.bottom_up" not in parts:  # a backbone without an FPN
        parts["backbone"] = "backbone"
    device = next(detector.parameters()).device.type
    repeats: list[dict[str, float]] = []
    for _ in range(min(WARMUP, min_repeats // 2)):
        detect(detector, image)
    start = time.perf_counter()
    while len(repeats) < min_repeats or time.perf_counter() - start < seconds:
        with _marks({modules[path]: part for path, part in parts.items()}, device) as marks:
            detect(detector, image)
        repeats.append(dict.fromkeys([*parts.values(), REST], 0.0))
        running: list[str] = []
        for (moment, part), (after, _) in pairwise(marks):
            running = [*running, part] if part else running[:-1]
            repeats[-1][running[-1]] += after - moment
    return {part: median(x[part] for x in repeats) for part in repeats[0]}


@contextmanager
def _marks(parts: dict[nn.Module, str], device: str) -> Iterator[list[tuple[float, str]]]:
    """Within this context notes when a part, REST around all, begins; "" when the last one ends."""
    marks: list[tuple[float, str]] = []

    def mark(part: str) -> None:
        marks.append((read_clock(device), part))

    with ExitStack() as stack:
        for module, name in parts.items():
            enter = module.register_forward_pre_hook(lambda *_, part=name: mark(part))
            stack.callback(enter.remove)
            stack.callback(module.register_forward_hook(lambda *_: mark("")).remove)
        mark(REST)
        yield marks
        mark("")
