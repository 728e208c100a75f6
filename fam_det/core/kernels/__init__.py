"""Hand-written autograd for speed; tests check each function against its plain formula.

Large tensors are processed in chunks. On the CPU a temporary of a whole map is newly allocated each
time, which costs more than its arithmetic; that of a chunk is reused and stays in the cache. On a
GPU chunks only bound the memory, and are large so that few kernels are launched.
"""

from collections.abc import Iterator

import torch

GPU_FACTOR = 64  # size of a chunk on a GPU over that on the CPU


def chunks(count: int, size: int, values: int, device: torch.device) -> Iterator[slice]:
    """Splits ``count`` items of ``size`` values into slices of ``values`` values (on the CPU)."""
    values *= 1 if device.type == "cpu" else GPU_FACTOR
    step = max(1, values // max(size, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
