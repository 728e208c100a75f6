"""Peak memory of a function, from the allocator: exact, and the same on a busy machine."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(function: Callable[[], object], *, device: str = "cpu") -> int:
    """Largest number of bytes that PyTorch held during a call, beyond those it held before.

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
    changes = sorted(
        (event["ts"], event["args"]["Ev Idx"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]"
    )
    held, peak = 0, 0
    for _, _, size in changes:
        held += size
        peak = max(peak, held)
    return peak
