"""Rows of the benchmark: the project and a reference, in time, memory and parameters.

Both are timed alternately, as the machine may have other work.
"""

import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeAlias

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer, timer  # both wait for a GPU

Function = Callable[[], object]
Modules: TypeAlias = tuple[nn.Module | None, nn.Module | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two implementations to compare."""

    name: str  # of the row
    project: Function
    reference: Function
    modules: Modules = (None, None)  # of both, to count parameters
    time_goal: float | None = None  # largest ratio of times, project over reference
    memory_goal: float | None = None  # largest ratio of peak memories
    memory: bool = True  # whether to compare it
    seconds: float = 4.0  # of timing; see time_pairs, as for the next two
    pairs: tuple[int, int] = (5, 100)
    warmup: int = 2
    growth: tuple[str, float] | None = None  # quantity that grows, and its factor


def gradient_case(
    name: str,
    project: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    *inputs: Tensor,
    modules: Modules = (None, None),
    **settings: Any,
) -> Case:
    """Returns a case of two functions of the same tensors, forward and backward.

    Gradients are those of inputs that require one, and of the parameters of the modules.
    """
    parameters = [module.parameters() if module else () for module in modules]
    return Case(
        name=name,
        project=forward_backward(project, inputs, parameters[0]),
        reference=forward_backward(reference, inputs, parameters[1]),
        modules=modules,
        **settings,
    )


def forward_backward(
    function: Callable[..., Tensor], inputs: Iterable[Tensor], parameters: Iterable[Tensor]
) -> Function:
    """Returns a function that calls ``function`` and, if a tensor requires them, its gradients."""
    trained = [x for x in (*inputs, *parameters) if x.requires_grad]
    if not trained:
        return lambda: function(*inputs)
    output = function(*inputs).detach()
    generator = torch.Generator(output.device).manual_seed(0)  # both sides get the same gradient
    probe = output.new_empty(output.shape).normal_(generator=generator)

    def run() -> None:
        function(*inputs).backward(probe)
        for tensor in trained:
            tensor.grad = None  # as an optimiser does between two steps

    return run


Row = dict[str, Any]
"""Milliseconds, MiB and parameters of both sides, and their ratios, project over reference."""


def measure(case: Case, device: str) -> Row:
    """Times both functions alternately, then measures the peak memory of each."""
    functions = (case.project, case.reference)
    times = time_pairs(*functions, seconds=case.seconds, pairs=case.pairs, warmup=case.warmup)
    project_ms, reference_ms = (1e3 * median(side) for side in zip(*times, strict=True))
    ratios = [project / reference for project, reference in times]  # a temporary load slows both
    first, _, third = quantiles(ratios * 2 if len(ratios) == 1 else ratios, method="inclusive")
    mib = [peak_memory(x, device=device) / 2.0**20 if case.memory else None for x in functions]
    parameters = [module and count_parameters(module) for module in case.modules]
    return {
        "name": case.name,
        "project_ms": project_ms,
        "reference_ms": reference_ms,
        "ratio": median(ratios),
        "quartiles": (first, third),
        "time_goal": case.time_goal,
        "pairs": len(times),
        "project_mib": mib[0],
        "reference_mib": mib[1],
        "memory_ratio": mib[0] / mib[1] if mib[0] is not None and mib[1] else None,
        "memory_goal": case.memory_goal,
        "project_parameters": parameters[0],
        "reference_parameters": parameters[1],
        "growth": case.growth,
    }


def count_parameters(module: nn.Module) -> int:
    """Counts trained real numbers: a complex one counts twice."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())


def table(rows: Iterable[Row]) -> str:
    """Returns the rows as a Markdown table, without empty columns."""
    printed = []
    for row in rows:
        texts = row | {"quartiles": "{:.3f} to {:.3f}".format(*row["quartiles"])}
        printed.append({key: text for key, text in texts.items() if text is not None})
    return str(tabulate(printed, "keys", "github", floatfmt=".3f", intfmt=","))


def exponents(rows: Iterable[Row]) -> list[str]:
    """Returns a line for each growing quantity: the e of cost = factor**e, for time and memory.

    It is a least-squares fit of the logarithms, through the reference.
    """
    points: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["growth"]:
            name, factor = row["growth"]
            points.setdefault(name, []).append([factor, row["ratio"], row["memory_ratio"]])
    lines = []
    for name, fitted in points.items():
        x, *costs = torch.tensor(fitted).log().T
        time, memory = (x @ cost / (x @ x) for cost in costs)
        lines.append(f"time grows with {name}^{time:.2f}, memory with {name}^{memory:.2f}")
    return lines


def time_pairs(
    project: Function, reference: Function, *, seconds: float, pairs: tuple[int, int], warmup: int
) -> list[tuple[float, float]]:
    """Times both functions alternately after a warm-up; the first of a pair alternates too.

    ``torch.utils.benchmark.Timer`` times one function after the other: a temporary load of the
    machine would slow only one of them.

    After ``seconds`` no further pair starts, except to reach the lower number of ``pairs``.

    Returns:
        Seconds of both, for each pair.
    """
    functions = (project, reference)
    for function in functions * warmup:
        function()
    times: list[tuple[float, float]] = []
    end = timer() + seconds
    min_pairs, max_pairs = pairs
    while len(times) < max_pairs and (len(times) < min_pairs or timer() < end):
        seconds_of = [0.0, 0.0]
        first = len(times) % 2
        for i in (first, 1 - first):
            start = timer()
            functions[i]()
            seconds_of[i] = timer() - start
        times.append((seconds_of[0], seconds_of[1]))
    return times


def peak_memory(function: Function, *, device: str = "cpu") -> int:
    """Returns the peak of the bytes that PyTorch allocates in a call, beyond those before it.

    They include saved activations, temporary tensors, outputs and gradients. On a GPU it is the
    caching allocator's peak. On the CPU it is the largest sum of the allocations and releases that
    the profiler records, without the memory that MKL and oneDNN allocate themselves.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: (event["ts"], event["args"]["Ev Idx"]))
    held, peak = 0, 0
    for event in changes:
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def describe_machine(device: str) -> dict[str, Any]:
    """Returns hardware and versions, with the rate of a large float32 matrix product."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*: (.+)", text, re.M)
    processor = model[1] if model else platform.processor() or platform.machine()
    a = torch.randn(1024, 1024, device=device)
    product = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matmul_gflops": round(2 * 1024**3 / product.blocked_autorange().median / 1e9, 1),
    }
