"""Time and memory of functions, on a machine that others may use too."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer, timer  # both wait for a GPU

Function = Callable[[], object]


def time_pairs(
    project: Function,
    reference: Function,
    *,
    seconds: float = 4.0,
    pairs: tuple[int, int] = (5, 100),
    warmup: int = 2,
) -> list[tuple[float, float]]:
    """Times both functions in turn after warm-up, the first of a pair alternating.

    ``torch.utils.benchmark.Timer`` times one function after the other; a slow moment of the machine
    would hit one of them alone.

    Args:
        project: the project's way.
        reference: the way it is compared with.
        seconds: no pair is begun after that, save for the lowest number of pairs.
        pairs: lowest and highest number of pairs.
        warmup: runs of each that are not counted.

    Returns:
        Seconds of both, for each pair.
    """
    for _ in range(warmup):
        project()
        reference()
    times: list[tuple[float, float]] = []
    end = timer() + seconds
    min_pairs, max_pairs = pairs
    while len(times) < max_pairs and (len(times) < min_pairs or timer() < end):
        if len(times) % 2 == 0:
            times.append((time_once(project), time_once(reference)))
        else:
            second = time_once(reference)
            times.append((time_once(project), second))
    return times


def time_once(function: Function) -> float:
    """Returns the seconds of one call, a GPU's work included."""
    start = timer()
    function()
    return timer() - start


def forward_backward(
    function: Callable[..., Tensor], *inputs: Tensor, parameters: Iterable[Tensor] = ()
) -> Function:
    """Returns a call of a function that computes the gradients of its inputs and parameters too."""
    wanted = [x for x in (*inputs, *parameters) if x.requires_grad]
    output = function(*inputs).detach()
    generator = torch.Generator(output.device).manual_seed(0)  # two ways get the same gradient
    probe = output.new_empty(output.shape).normal_(generator=generator)
    return lambda: torch.autograd.grad(function(*inputs), wanted, probe)


def peak_memory(function: Function, *, device: str = "cpu") -> int:
    """Returns the largest number of bytes that PyTorch held in a call, beyond those held before.

    Parameters and inputs are there before and do not count; saved activations, temporary tensors,
    outputs and gradients do. On a GPU it is the caching allocator's peak of allocated bytes. On the
    CPU the profiler records every allocation and release, and the largest sum of them is taken;
    what MKL and oneDNN allocate for themselves is not seen.
    """
    if device.startswith("cuda"):
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


@dataclass(frozen=True)
class Machine:
    """A device with its measured rates.

    Args:
        device: "cpu" or "cuda".
        flops: operations a second of a large float32 matrix product.
        bandwidth: bytes a second read and written by a copy that fits no cache.
    """

    device: str
    flops: float
    bandwidth: float

    def floor_ms(self, flops: float | None, moved: float | None) -> float | None:
        """Returns the least time of that many operations and bytes: the longer, as a roofline."""
        if flops is None and moved is None:
            return None
        return 1e3 * max((flops or 0.0) / self.flops, (moved or 0.0) / self.bandwidth)

    def describe(self) -> dict[str, Any]:
        """Returns what has to stand beside a figure."""
        cuda = self.device.startswith("cuda")
        return {
            "device": torch.cuda.get_device_name() if cuda else processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": [round(x, 1) for x in os.getloadavg()],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "matmul_gflops": round(self.flops / 1e9, 1),
            "copy_gb_per_s": round(self.bandwidth / 1e9, 1),
        }


def measure_machine(device: str) -> Machine:
    """Measures a matrix product and a copy."""
    a = torch.randn(1024, 1024, device=device)
    x = torch.zeros(2**25, device=device)
    names = {"torch": torch, "a": a, "b": torch.empty_like(a), "x": x, "y": torch.zeros_like(x)}

    def seconds(statement: str) -> float:
        clock = Timer(statement, globals=names, num_threads=torch.get_num_threads())
        return float(clock.blocked_autorange(min_run_time=0.3).median)

    product, copy = seconds("torch.mm(a, a, out=b)"), seconds("y.copy_(x)")
    return Machine(device, 2 * 1024**3 / product, 2 * x.nbytes / copy)


def processor() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
