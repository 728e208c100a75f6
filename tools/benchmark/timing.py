"""Times of two functions on a machine that others may use too: alternating, compared in pairs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Function = Callable[[], object]


@dataclass(frozen=True)
class PairedTimes:
    """Times of the project and of the reference, in seconds; entry i of both was taken together."""

    project: list[float]
    reference: list[float]

    @property
    def ratio(self) -> float:
        """Median of project over reference, pair by pair: a slow moment hits both."""
        return median(self._ratios())

    @property
    def ratio_quartiles(self) -> tuple[float, float]:
        """First and third quartile of the ratios."""
        ratios = self._ratios()
        if len(ratios) < 2:
            return ratios[0], ratios[0]
        first, _, third = quantiles(ratios, n=4, method="inclusive")
        return first, third

    def _ratios(self) -> list[float]:
        return [p / r for p, r in zip(self.project, self.reference, strict=True)]


def time_pairs(
    project: Function,
    reference: Function,
    *,
    device: str = "cpu",
    seconds: float = 4.0,
    pairs: tuple[int, int] = (5, 100),
    warmup: int = 2,
) -> PairedTimes:
    """Time both functions in turn, the first of a pair alternating, after warm-up.

    Args:
        project: the project's way.
        reference: the way it is compared with.
        device: where they run; a GPU is waited for.
        seconds: no pair is begun after that, save for the least number of pairs.
        pairs: least and largest number of pairs.
        warmup: runs of each that are not counted.
    """
    for _ in range(warmup):
        time_once(project, device)
        time_once(reference, device)
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    least, most = pairs
    for i in range(most):
        if i >= least and time.perf_counter() > end:
            break
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            times[which].append(time_once((project, reference)[which], device))
    return PairedTimes(*times)


def time_once(function: Function, device: str) -> float:
    """Seconds of one call, a GPU's work included."""
    _wait_for(device)
    start = time.perf_counter()
    function()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
