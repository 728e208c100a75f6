"""Where the benchmark runs, and how fast that is at the two things every formula is made of."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tools.benchmark.timing import time_once


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
        """Least time of that many operations and bytes: whichever takes longer, as a roofline."""
        if flops is None and moved is None:
            return None
        return 1e3 * max((flops or 0.0) / self.flops, (moved or 0.0) / self.bandwidth)

    def describe(self) -> dict[str, Any]:
        """What has to stand beside a figure."""
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
    """Best of several matrix products and copies."""
    a = torch.randn(1024, 1024, device=device)
    product = torch.empty_like(a)
    source = torch.zeros(2**25, device=device)
    target = torch.zeros_like(source)
    multiply = min(
        time_once(lambda: torch.mm(a, a, out=product), device) for _ in range(20)
    )  # 2 * n^3 operations
    copy = min(time_once(lambda: target.copy_(source), device) for _ in range(10))
    return Machine(device, 2 * 1024**3 / multiply, 2 * source.nbytes / copy)


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
