"""Hand-written autograd for speed; each function equals a plain formula, which a test holds.

They work through a large tensor in chunks. On the CPU a temporary of a whole map is fresh memory
each time, which costs more than the arithmetic on it; one of a chunk that stays in the cache is
used again. On a GPU a chunk only bounds the memory, and is as large as keeps the number of kernels
small.
"""

from collections.abc import Iterator

import torch

GPU_FACTOR = 64  # how much larger a chunk is there


def chunks(count: int, size: int, values: int, device: torch.device) -> Iterator[slice]:
    """Cuts ``count`` items of ``size`` values into runs of about ``values`` in all, on the CPU."""
    values *= 1 if device.type == "cpu" else GPU_FACTOR
    step = max(1, values // max(size, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
