"""A row of the benchmark: the project beside a reference, in time, memory and parameters."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from tabulate import tabulate
from torch import nn

from tools.benchmark.measuring import Function, Machine, peak_memory, time_pairs

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
        seconds: of timing, besides the lowest number of pairs.
        pairs: lowest and highest number of pairs.
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


Row = dict[str, Any]
"""Milliseconds, MiB and parameters of both ways, and their ratios, project over reference."""


def measure(case: Case, machine: Machine) -> Row:
    """Times both ways in turn, then takes the peak memory of each."""
    times = time_pairs(
        case.project, case.reference, seconds=case.seconds, pairs=case.pairs, warmup=case.warmup
    )
    ratios = [project / reference for project, reference in times]  # a slow moment hits both
    first, _, third = quantiles(ratios * 2 if len(ratios) == 1 else ratios, method="inclusive")
    project_ms, reference_ms = (1e3 * median(side) for side in zip(*times, strict=True))
    row: Row = {
        "name": case.name,
        "project_ms": project_ms,
        "reference_ms": reference_ms,
        "ratio": median(ratios),
        "quartiles": (first, third),
        "pairs": len(times),
        "time_goal": case.time_goal,
        "memory_goal": case.memory_goal,
        "floor_ms": machine.floor_ms(case.flops, case.moved),
        "growth": case.growth,
    }
    for i, side in enumerate(("project", "reference")):
        way: Function = getattr(case, side)
        peak = peak_memory(way, device=machine.device) / MIB if case.memory else None
        row[f"{side}_mib"] = peak
        row[f"{side}_parameters"] = count_parameters(case.modules[i]) if case.modules else None
    row["memory_ratio"] = (
        row["project_mib"] / row["reference_mib"] if row["reference_mib"] else None
    )
    return row


def count_parameters(module: nn.Module) -> int:
    """Counts the real numbers that are trained: a complex one is two."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())


def table(rows: Iterable[Row]) -> str:
    """Returns the rows as a Markdown table."""
    columns = {  # by key, a title and a format
        "name": ("row", "s"),
        "project_ms": ("ms", ".1f"),
        "reference_ms": ("reference", ".1f"),
        "ratio": ("ratio", ".3f"),
        "quartiles": ("quartiles", ""),
        "time_goal": ("goal", ".2f"),
        "pairs": ("pairs", "d"),
        "floor_ms": ("floor", ".1f"),
        "project_mib": ("MiB", ".1f"),
        "reference_mib": ("reference", ".1f"),
        "memory_ratio": ("ratio", ".3f"),
        "memory_goal": ("goal", ".2f"),
        "project_parameters": ("parameters", ",d"),
        "reference_parameters": ("reference", ",d"),
    }
    cells = []
    for row in rows:
        texts = row | {"quartiles": "{:.3f} to {:.3f}".format(*row["quartiles"])}
        cells.append(
            ["" if texts[key] is None else format(texts[key], f) for key, (_, f) in columns.items()]
        )
    titles = [title for title, _ in columns.values()]
    return str(tabulate(cells, titles, "github", disable_numparse=True))


def exponents(rows: Iterable[Row]) -> list[str]:
    """Returns a line for each thing that grows: the e of cost = factor**e, for time and memory.

    The fit is by least squares in the logarithms, through the reference.
    """
    points: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if row["growth"]:
            name, factor = row["growth"]
            logs = (math.log(x) for x in (factor, row["ratio"], row["memory_ratio"]))
            points.setdefault(name, []).append(tuple(logs))  # type: ignore[arg-type]
    lines = []
    for name, fitted in points.items():
        square = sum(x * x for x, _, _ in fitted)
        time = sum(x * t for x, t, _ in fitted) / square
        memory = sum(x * m for x, _, m in fitted) / square
        lines.append(f"time grows with {name}^{time:.2f}, memory with {name}^{memory:.2f}")
    return lines
