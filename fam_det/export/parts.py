"""Measures the time of a detector's backbone, FPN, RPN and heads."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn

from fam_det.export.formats import detect
from fam_det.modeling.metrics import wall_clock

REST = "the rest"
WARMUP, MIN_REPEATS = 2, 5
# By path. A part inside another part's module is not counted in that one: the bottom-up network
# inside the FPN, the masks inside ``roi_heads``.
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
    """Returns seconds from an arbitrary start; ``device`` is "cpu" or a GPU, such as "cuda:1".

    With one thread it is the CPU time, in which the other processes of a shared machine do not
    count. Several threads wait for each other, so that there, as on a GPU, it is the wall time.
    """
    if device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time()
    return wall_clock(torch.device(device))


def describe_device(device: str) -> str:
    """Returns the name of a GPU, or another device's name and number of threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the {device.upper()}, {threads} thread{'s' * (threads > 1)}"


@torch.no_grad()
def part_seconds(
    detector: nn.Module, image: Tensor, seconds: float = 3.0, min_repeats: int = MIN_REPEATS
) -> dict[str, float]:
    """Measures the parts of a detector in PyTorch.

    Args:
        detector: any of Detectron2's, in eval mode.
        image: (3, H, W), float32 of 0 to 255 in the detector's channel order.
        seconds: of the measurement, at least.
        min_repeats: forward passes, at least.

    Returns:
        The median seconds of each part, in the order of ``PARTS``, then of "the rest": normalising
        and padding the image, and the anchors and NMS of a dense detector. The NMS of proposals
        counts as RPN, that of detections as box head.
    """
    modules = dict(detector.named_modules())
    parts = {path: part for path, part in PARTS.items() if path in modules}
    if "backbone.bottom_up" not in parts:  # a backbone without an FPN
        parts["backbone"] = "backbone"
    device = str(next(detector.parameters()).device)
    repeats: list[dict[str, float]] = []
    for _ in range(min(WARMUP, min_repeats // 2)):
        detect(detector, image)
    start = time.perf_counter()
    while len(repeats) < min_repeats or time.perf_counter() - start < seconds:
        with _marks({modules[path]: part for path, part in parts.items()}, device) as marks:
            detect(detector, image)
        repeats.append(dict.fromkeys([*parts.values(), REST], 0.0))
        running: list[str] = []
        for (begin, part), (end, _) in pairwise(marks):
            running = [*running, part] if part else running[:-1]
            repeats[-1][running[-1]] += end - begin
    return {part: median(x[part] for x in repeats) for part in repeats[0]}


@contextmanager
def _marks(parts: dict[nn.Module, str], device: str) -> Iterator[list[tuple[float, str]]]:
    """Yields the times at which parts begin, and their names; "" at the end of the last one."""
    marks: list[tuple[float, str]] = []

    def mark(part: str) -> None:
        marks.append((read_clock(device), part))

    with ExitStack() as stack:
        for module, name in parts.items():
            begin = module.register_forward_pre_hook(lambda *_, part=name: mark(part))
            stack.enter_context(begin)
            stack.enter_context(module.register_forward_hook(lambda *_: mark("")))
        mark(REST)
        yield marks
        mark("")
