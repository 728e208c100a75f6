"""How much a detector costs and finds, in PyTorch and exported: the rows of the table."""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Before detectron2.utils.analysis, which imports detectron2.export.
from fam_det.export.clock import read_clock
from fam_det.export.compare import compare, compare_loosely
from fam_det.export.evaluate import evaluate
from fam_det.export.formats import FORMATS, Runner, detect, export
from fam_det.export.parts import part_seconds
from fam_det.export.source import MAX_REASON
from fam_det.files import one_line

from detectron2.config import CfgNode
from detectron2.utils.analysis import FlopCountAnalysis

SECONDS = 3.0  # of the measurement of each detector
WARMUP, MIN_ROUNDS, TURN = 2, 3, 0.1  # runs before it, turns of each, seconds of a turn


class Network(NamedTuple):
    """A student or teacher."""

    name: str
    detector: Any  # in eval mode on the CPU
    cfg: CfgNode  # whose INPUT says how it expects images
    image: Tensor  # (3, H, W) as it expects it
    calibration: Iterable[Tensor] = ()  # training images as it expects them

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[-2], self.image.shape[-1]


class Row(NamedTuple):
    """A line of the table; None for what was not measured."""

    network: str
    format: str  # "PyTorch" or the title of one of FORMATS
    file: str = ""
    size: int | None = None  # of the file, or of the weights, in bytes
    parameters: int | None = None
    flops: float | None = None  # multiply-adds of one image
    seconds: float | None = None  # median of one image
    speedup: float | None = None  # the teacher's seconds in the same format by these
    ap: float | None = None  # of boxes on the validation data, in percent
    ap50: float | None = None
    top1: float | None = None  # of a classifier
    top5: float | None = None
    check: str = ""  # how it compares with the same network in PyTorch
    error: str = ""  # why the file is not there or not to be used

    @property
    def title(self) -> str:
        """The network and the format."""
        return f"{self.network}, {self.format}"


class Subject(NamedTuple):
    """A row, and what it is measured on; nothing where an export failed."""

    row: Row
    network: Network
    run: Runner | None


def in_pytorch(network: Network, file: Path | None = None) -> Subject:
    """Returns a network as it is; its file has the weights."""
    weights = network.detector.state_dict().values()
    row = Row(
        network.name,
        "PyTorch",
        file.name if file else "",
        file.stat().st_size if file else sum(x.numel() * x.element_size() for x in weights),
        sum(x.numel() for x in network.detector.parameters()),
        count_flops(network.detector, network.image),
    )
    return Subject(row, network, partial(detect, network.detector))


def exported(name: str, network: Network, folder: Path) -> Subject:
    """Exports a network to one of ``FORMATS`` and compares; what goes wrong is in the row."""
    file = folder / FORMATS[name].file
    row = Row(network.name, FORMATS[name].title)
    file.unlink(missing_ok=True)  # that of an earlier call is not this network
    try:
        run = export(name, network.detector, network.image, file, network.calibration)
        beside = compare if FORMATS[name].is_exact else compare_loosely
        found = beside(run, partial(detect, network.detector), network.image)
    except Exception as error:  # whatever PyTorch's exporters or a user's own model raise
        file.unlink(missing_ok=True)
        reason = _failure(name, network.detector, error)
        return Subject(row._replace(check="failed", error=reason), network, None)
    if not found.close:
        file.unlink()
        reason = f"--format {name}: removed: {found.describe()}"
        return Subject(row._replace(check="failed", error=reason), network, None)
    row = row._replace(file=file.name, size=file.stat().st_size, check=found.describe())
    return Subject(row, network, run)


def _failure(name: str, detector: Any, error: Exception) -> str:
    backbone = getattr(detector, "backbone", detector)
    bottom_up = type(getattr(backbone, "bottom_up", backbone)).__name__  # below an FPN
    described = f"{type(detector).__name__} on {bottom_up}"
    other = "; use --format torchscript instead" if name == "scripted" else ""
    reason = one_line(error, MAX_REASON)
    return f"--format {name}: PyTorch cannot export {described}{other} ({reason})"


@torch.no_grad()
def count_flops(detector: nn.Module, image: Tensor) -> float:
    """Returns multiply-adds of one image as fvcore counts them; the heads' depend on the image."""
    analysis: Any = FlopCountAnalysis(detector, [{"image": image}])
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return float(analysis.tracer_warnings("none").total())


@torch.no_grad()
def latencies(runs: Sequence[Callable[[], Any]], seconds: float | None = None) -> list[float]:
    """Returns the median seconds of each run, as ``read_clock`` has them.

    They take turns, so that their ratios hold on a machine with other work. The first run of a turn
    finds the caches full of another's, and counts only where it is the only one.
    """
    for run in runs:
        for _ in range(WARMUP):
            run()
    measured: list[list[float]] = [[] for _ in runs]
    start, total = time.perf_counter(), len(runs) * (SECONDS if seconds is None else seconds)
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() - start < total:
        for run, times in zip(runs, measured, strict=True):
            times += _turn(run)
        rounds += 1
    return [median(times) for times in measured]


def _turn(run: Callable[[], Any]) -> list[float]:
    clock = [read_clock("cpu")]
    while len(clock) == 1 or clock[-1] - clock[0] < TURN:
        run()
        clock.append(read_clock("cpu"))
    times = [after - before for before, after in itertools.pairwise(clock)]
    return times[1:] or times


def latency(run: Runner, image: Tensor) -> float:
    """Returns the median seconds of an image."""
    return latencies([partial(run, image)])[0]


def timed(subjects: Sequence[Subject]) -> list[Subject]:
    """Adds latencies, and the speedups over a teacher in the same format."""
    runs = [partial(x.run, x.network.image) for x in subjects if x.run]
    found = iter(latencies(runs))
    rows = [x.row._replace(seconds=next(found)) if x.run else x.row for x in subjects]
    teacher = {x.format: x.seconds for x in rows if x.network == "teacher" and x.seconds}
    for i, row in enumerate(rows):
        if row.network != "teacher" and row.seconds and row.format in teacher:
            rows[i] = row._replace(speedup=teacher[row.format] / row.seconds)
    return [x._replace(row=row) for x, row in zip(subjects, rows, strict=True)]


def evaluated(subjects: Sequence[Subject], dataset: str, classes: int | None) -> list[Subject]:
    """Adds the AP on a registered data set to those who find this number of classes."""
    return [
        _evaluated(x, x.run, dataset) if x.run and class_count(x.network.detector) == classes else x
        for x in subjects
    ]


def class_count(detector: Any) -> int | None:
    """Returns how many classes a detector finds, if it says so as Detectron2's do."""
    return getattr(getattr(detector, "roi_heads", detector), "num_classes", None)


def _evaluated(subject: Subject, run: Runner, dataset: str) -> Subject:
    row = subject.row
    ap = evaluate(run, subject.network.cfg, dataset, row.title)
    return subject._replace(row=row._replace(ap=ap["AP"], ap50=ap["AP50"]))


def parts(networks: Sequence[Network]) -> dict[str, dict[str, float]]:
    """Returns the seconds of each part of each network in PyTorch."""
    return {x.name: part_seconds(x.detector, x.image, SECONDS) for x in networks}
