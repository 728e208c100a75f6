"""A row of the benchmark: the project beside a reference, in time, memory and parameters."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tabulate import tabulate
from torch import nn

from tools.benchmark.machine import Machine
from tools.benchmark.memory import peak_memory
from tools.benchmark.timing import Function, time_pairs

MIB = 2.0**20


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two ways to do one thing.

    Args:
        name: of the row.
        project: the project's way, without arguments.
        reference: the other way.
        modules: the project's module and the reference's, to count parameters.
        flops: operations that the project's formula cannot do without, None where unknown.
        moved: bytes that have to be read or written once, None where unknown.
        time_goal: largest ratio of times, project over reference.
        memory_goal: largest ratio of peak memories.
        memory: whether to compare memory.
        seconds: of timing, besides the least number of pairs.
        pairs: least and largest number of pairs.
        warmup: runs of each that are not counted.
        growth: what the project's way has more of than the reference, and how many times as much.
    """

    name: str
    project: Function
    reference: Function
    modules: tuple[nn.Module, nn.Module] | None = None
    flops: float | None = None
    moved: float | None = None
    time_goal: float | None = None
    memory_goal: float | None = None
    memory: bool = True
    seconds: float = 4.0
    pairs: tuple[int, int] = (5, 100)
    warmup: int = 2
    growth: tuple[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured; times in milliseconds, memory in MiB, ratios of project over reference."""

    name: str
    project_ms: float
    reference_ms: float
    ratio: float
    quartiles: tuple[float, float]
    pairs: int
    time_goal: float | None
    project_mib: float | None
    reference_mib: float | None
    memory_goal: float | None
    project_parameters: int | None
    reference_parameters: int | None
    floor_ms: float | None
    growth: tuple[str, float] | None = None

    @property
    def memory_ratio(self) -> float | None:
        """Peak memory, project over reference."""
        if self.project_mib is None or not self.reference_mib:
            return None
        return self.project_mib / self.reference_mib

    def to_json(self) -> dict[str, Any]:
        """Every field and the memory's ratio, for a file."""
        return asdict(self) | {"memory_ratio": self.memory_ratio}


def measure(case: Case, machine: Machine) -> Row:
    """Time both ways in turn, then take the peak memory of each."""
    times = time_pairs(
        case.project,
        case.reference,
        device=machine.device,
        seconds=case.seconds,
        pairs=case.pairs,
        warmup=case.warmup,
    )
    peaks = [
        peak_memory(way, device=machine.device) / MIB if case.memory else None
        for way in (case.project, case.reference)
    ]
    counts = [_parameters(module) for module in case.modules] if case.modules else [None, None]
    return Row(
        name=case.name,
        project_ms=1e3 * median(times.project),
        reference_ms=1e3 * median(times.reference),
        ratio=times.ratio,
        quartiles=times.ratio_quartiles,
        pairs=len(times.project),
        time_goal=case.time_goal,
        project_mib=peaks[0],
        reference_mib=peaks[1],
        memory_goal=case.memory_goal,
        project_parameters=counts[0],
        reference_parameters=counts[1],
        floor_ms=machine.floor_ms(case.flops, case.moved),
        growth=case.growth,
    )


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    header = ["row", "ms", "reference", "ratio", "quartiles", "goal", "pairs", "floor"]
    header += ["MiB", "reference", "ratio", "goal", "parameters", "reference"]
    return tabulate([_cells(row) for row in rows], header, "github", disable_numparse=True)


def exponents(rows: Iterable[Row]) -> list[str]:
    """A line for each thing that grows: the fitted e of cost = factor**e, for time and memory.

    The fit is by least squares in the logarithms, through the reference.
    """
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if row.growth and row.memory_ratio:
            what, factor = row.growth
            points.setdefault(what, []).append(
                (math.log(factor), math.log(row.ratio), math.log(row.memory_ratio))
            )
    lines = []
    for what, logs in points.items():
        square = sum(x * x for x, _, _ in logs)
        time = sum(x * t for x, t, _ in logs) / square
        memory = sum(x * m for x, _, m in logs) / square
        lines.append(f"time grows with {what}^{time:.2f}, memory with {what}^{memory:.2f}")
    return lines


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        _text(row.project_ms, ".1f"),
        _text(row.reference_ms, ".1f"),
        _text(row.ratio, ".3f"),
        "{:.3f} to {:.3f}".format(*row.quartiles),
        _text(row.time_goal, ".2f"),
        str(row.pairs),
        _text(row.floor_ms, ".1f"),
        _text(row.project_mib, ".1f"),
        _text(row.reference_mib, ".1f"),
        _text(row.memory_ratio, ".3f"),
        _text(row.memory_goal, ".2f"),
        _text(row.project_parameters, ",d"),
        _text(row.reference_parameters, ",d"),
    ]


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _parameters(module: nn.Module) -> int:
    """Real numbers that are trained: a complex one is two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())
