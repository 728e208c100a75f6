"""Time and memory of functions, on a machine that others may use too."""

import json
import os
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer, timer  # both wait for a GPU

Function = Callable[[], object]


def time_pairs(
    project: Function, reference: Function, *, seconds: float, pairs: tuple[int, int], warmup: int
) -> list[tuple[float, float]]:
    """Times both functions in turn after warm-up, the first of a pair alternating.

    ``torch.utils.benchmark.Timer`` times one function after the other; a slow moment of the machine
    would hit one of them alone.

    No pair is begun after ``seconds``, save for the lowest number of ``pairs``.

    Returns:
        Seconds of both, for each pair.
    """
    ways = (project, reference)
    for way in ways * warmup:
        way()
    times: list[tuple[float, float]] = []
    end = timer() + seconds
    min_pairs, max_pairs = pairs
    while len(times) < max_pairs and (len(times) < min_pairs or timer() < end):
        taken = [0.0, 0.0]
        first = len(times) % 2
        for i in (first, 1 - first):
            start = timer()
            ways[i]()
            taken[i] = timer() - start
        times.append((taken[0], taken[1]))
    return times


def peak_memory(function: Function, *, device: str = "cpu") -> int:
    """Returns the largest number of bytes that PyTorch held in a call, beyond those held before.

    Saved activations, temporary tensors, outputs and gradients count. On a GPU it is the caching
    allocator's peak. On the CPU the profiler records every allocation and release, and the largest
    sum of them is taken; what MKL and oneDNN allocate for themselves is not seen.
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
    """Returns what has to stand beside a figure, with the rate of a large float32 product."""
    a = torch.randn(1024, 1024, device=device)
    product = Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matmul_gflops": round(2 * 1024**3 / product.blocked_autorange().median / 1e9, 1),
    }


def processor() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", info.read_text() if info.exists() else "", re.M)
    return found[1] if found else platform.processor() or platform.machine()
