"""How much a detector costs, and how far an exported one is from it: the rows of the table."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

# Before detectron2.utils.analysis, which imports detectron2.export.
from fam_det.export.formats import FORMATS, Runner, detect, export
from fam_det.export.source import MAX_REASON
from fam_det.files import one_line
from fam_det.modeling.teacher import FrozenTeacher

from detectron2.utils.analysis import FlopCountAnalysis

SECONDS, WARMUP = 3.0, 2  # of a measurement, and runs before it
INFINITE = float("inf")


class Row(NamedTuple):
    """A line of the table; None for what was not measured."""

    name: str  # of the network and format
    file: str = ""
    size: int | None = None  # of the file in bytes; for the teacher, of its weights
    parameters: int | None = None
    flops: float | None = None  # multiply-adds of one image
    seconds: float | None = None  # median of one image
    check: str = ""  # how it compares with the student in PyTorch
    error: str = ""  # why the file is not there or not to be used


def detector_row(name: str, detector: Any, image: Tensor, file: Path | None = None) -> Row:
    """Measures a detector in PyTorch on an image (3, H, W)."""
    weights = detector.state_dict().values()
    return Row(
        name,
        file.name if file else "",
        file.stat().st_size if file else sum(x.numel() * x.element_size() for x in weights),
        sum(x.numel() for x in detector.parameters()),
        count_flops(detector, image),
        latency(partial(detect, detector), image),
    )


def teacher_row(teacher: FrozenTeacher, image: Tensor) -> Row:
    """Measures a teacher on the student's image."""
    image = image.flip(0) if teacher.flip_channels else image
    return detector_row("teacher", teacher.detector, image)


def export_row(name: str, student: Any, image: Tensor, folder: Path) -> Row:
    """Exports to one of ``FORMATS`` and measures; what goes wrong is in the row."""
    title, file = f"student, {FORMATS[name].title}", folder / FORMATS[name].file
    file.unlink(missing_ok=True)  # that of an earlier call is not this student
    try:
        run = export(name, student, image, file)
        found = compare(run, partial(detect, student), image)
    except Exception as error:  # whatever PyTorch's exporters or a user's own model raise
        file.unlink(missing_ok=True)
        return Row(title, check="failed", error=_failure(name, student, error))
    if not found.close:
        file.unlink()
        return Row(title, check="failed", error=f"--format {name}: removed: {found.describe()}")
    size, seconds = file.stat().st_size, latency(run, image)
    return Row(title, file.name, size, seconds=seconds, check=found.describe())


def _failure(name: str, student: Any, error: Exception) -> str:
    backbone = getattr(student, "backbone", student)
    bottom_up = type(getattr(backbone, "bottom_up", backbone)).__name__  # below an FPN
    detector = f"{type(student).__name__} on {bottom_up}"
    other = "; use --format torchscript instead" if name == "scripted" else ""
    reason = one_line(error, MAX_REASON)
    return f"--format {name}: PyTorch cannot export {detector}{other} ({reason})"


@torch.no_grad()
def count_flops(detector: nn.Module, image: Tensor) -> float:
    """Returns multiply-adds of one image as fvcore counts them; the heads' depend on the image."""
    analysis: Any = FlopCountAnalysis(detector, [{"image": image}])
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return float(analysis.tracer_warnings("none").total())


@torch.no_grad()
def latency(run: Runner, image: Tensor) -> float:
    """Returns the median of the seconds of a forward pass."""
    names, threads = {"run": run, "image": image}, torch.get_num_threads()
    timer = Timer("run(image)", globals=names, num_threads=threads)
    timer.timeit(WARMUP)
    return timer.blocked_autorange(min_run_time=SECONDS).median


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
