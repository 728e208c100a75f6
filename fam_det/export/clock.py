"""The clock that detectors are timed with."""

import time

import torch


def read_clock(device: str) -> float:
    """Returns seconds, of which the differences count; ``device`` is "cpu" or "cuda".

    One thread is timed by what it computes, as on a machine with nothing else to do: other
    processes, which may take most of a shared machine, do not count. Several threads wait for one
    another, and a GPU is waited for, so there it is the time that passes.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
