"""Measures the cost and the accuracy of networks, in PyTorch and exported: the table's rows."""

import itertools
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
from torch import Tensor

# Before detectron2.utils.analysis, which imports detectron2.export.
from fam_det.export.compare import Runner
from fam_det.export.evaluate import evaluate
from fam_det.export.formats import FORMATS, Format, detect
from fam_det.export.parts import read_clock
from fam_det.export.source import MAX_REASON
from fam_det.files import one_line

from detectron2.config import CfgNode
from detectron2.utils.analysis import FlopCountAnalysis

SECONDS = 3.0  # of the measurement of each network
WARMUP, MIN_ROUNDS, TURN = 2, 3, 0.1  # first runs, turns of each, seconds of a turn


@dataclass(frozen=True)
class Network:
    """A student or teacher; ``classification.deploy`` has those of a classifier."""

    name: str
    detector: Any  # in eval mode on the CPU
    cfg: CfgNode  # its INPUT describes the images
    image: Tensor  # (3, H, W)
    calibration: Iterable[Tensor] = ()  # training images

    formats: ClassVar[Mapping[str, Format]] = FORMATS

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def inputs(self) -> Any:
        """The image as the detector takes it in PyTorch."""
        return [{"image": self.image}]

    @property
    def kind(self) -> str:
        """Its architecture, for messages."""
        backbone = getattr(self.detector, "backbone", self.detector)
        bottom_up = getattr(backbone, "bottom_up", backbone)  # below an FPN
        return f"{type(self.detector).__name__} on {type(bottom_up).__name__}"

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """Returns the detections in the form of an exported file's."""
        return detect(self.detector, image)

    def evaluate(self, run: Runner, title: str) -> dict[str, float]:
        """Returns the scores of a runner, by the fields of a row."""
        ap = evaluate(run, self.cfg, self.cfg.DATASETS.TEST[0], title)
        return {"ap": ap["AP"], "ap50": ap["AP50"]}


@dataclass
class Row:
    """A line of the table; None for a value that was not measured."""

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
    check: str = ""  # comparison with the same network in PyTorch
    error: str = ""  # why there is no file

    @property
    def title(self) -> str:
        """The network and the format."""
        return f"{self.network}, {self.format}"


def measure(
    networks: Sequence[Network],
    formats: Sequence[str],
    weights: Path,
    evaluated: Collection[str] = (),
) -> list[Row]:
    """Exports networks into the folder of the student's ``weights``, and measures them.

    Args:
        networks: the teacher, if there is one, before the student; only the student's files stay.
        formats: keys of their ``formats``.
        weights: file of the student's weights.
        evaluated: names of the networks whose rows get scores.

    Returns:
        The rows of PyTorch, then of each format.
    """
    subjects: list[tuple[Row, Network, Runner | None]] = []
    with tempfile.TemporaryDirectory() as folder:
        for x in networks:
            subjects.append((pytorch_row(x, weights if x.name == "student" else None), x, x.run))
        for name, x in itertools.product(formats, networks):
            target = weights.parent if x.name == "student" else Path(folder)
            row, run = export(name, x, target)
            subjects.append((row, x, run))
        running = [(row, x, run) for row, x, run in subjects if run]
        teacher: dict[str, float] = {}  # seconds by format
        seconds = latencies([partial(run, x.image) for _, x, run in running])
        for (row, x, run), row.seconds in zip(running, seconds, strict=True):
            if x.name == "teacher":
                teacher[row.format] = row.seconds
            elif row.seconds and row.format in teacher:
                row.speedup = teacher[row.format] / row.seconds
            if x.name in evaluated:
                vars(row).update(x.evaluate(run, row.title))
    return [row for row, _, _ in subjects]


def pytorch_row(network: Network, file: Path | None) -> Row:
    """Returns the row of a network in PyTorch; ``file`` has its weights."""
    weights = network.detector.state_dict().values()
    return Row(
        network.name,
        "PyTorch",
        file.name if file else "",
        file.stat().st_size if file else sum(x.numel() * x.element_size() for x in weights),
        sum(x.numel() for x in network.detector.parameters()),
        count_flops(network.detector, network.inputs),
    )


def export(name: str, network: Network, folder: Path) -> tuple[Row, Runner | None]:
    """Exports a network and compares the file with it; the row has any error."""
    fmt = network.formats[name]
    file, row = folder / fmt.file, Row(network.name, fmt.title)
    file.unlink(missing_ok=True)  # of another network, from an earlier call
    try:
        run = fmt.export(network.detector, network.image, file, network.calibration)
        result = fmt.compare(run, network.run, network.image)
        reason = "" if result.close else f"removed: {result.text}"
    except Exception as error:  # whatever PyTorch's exporters or a user's own model raise
        hint = "; use --format torchscript instead" if name == "scripted" else ""
        reason = f"PyTorch cannot export {network.kind}{hint} ({one_line(error, MAX_REASON)})"
    if reason:
        file.unlink(missing_ok=True)
        row.check, row.error = "failed", f"--format {name}: {reason}"
        return row, None
    row.file, row.size, row.check = file.name, file.stat().st_size, result.text
    return row, run


@torch.no_grad()
def count_flops(model: Any, inputs: Any) -> float:
    """Returns multiply-adds of one image as fvcore counts them; the heads' depend on the image."""
    analysis: Any = FlopCountAnalysis(model, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return float(analysis.tracer_warnings("none").total())


def latencies(runs: Sequence[Callable[[], Any]]) -> list[float]:
    """Returns the median seconds of each run on the CPU."""
    return [median(times) for times in time_in_turns(runs, "cpu", SECONDS, turn=TURN)]


@torch.no_grad()
def time_in_turns(
    runs: Sequence[Callable[[], Any]], device: str, seconds: float, *, turn: float = 0.0
) -> list[list[float]]:
    """Returns the seconds of the calls of each run, by ``read_clock`` of a device.

    They take turns, so that their ratios hold on a machine with other work. The first call of a
    turn has cold caches, and counts only if it is the only one.

    Args:
        runs: functions to time.
        device: on which they compute.
        seconds: of the measurement of each.
        turn: seconds of a turn; 0 for one call.
    """
    for run in runs:
        for _ in range(WARMUP):
            run()
    measured: list[list[float]] = [[] for _ in runs]
    start, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or time.perf_counter() - start < len(runs) * seconds:
        for run, times in zip(runs, measured, strict=True):
            clock = [read_clock(device)]
            while len(clock) == 1 or clock[-1] - clock[0] < turn:
                run()
                clock.append(read_clock(device))
            calls = [end - begin for begin, end in itertools.pairwise(clock)]
            times += calls[1:] or calls
        rounds += 1
    return measured


def class_count(detector: Any) -> int | None:
    """Returns the number of a detector's classes, None if it has no ``num_classes``."""
    return getattr(getattr(detector, "roi_heads", detector), "num_classes", None)
