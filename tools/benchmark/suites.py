"""The suites by name; one that needs more than PyTorch is imported when it runs."""

from collections.abc import Iterator
from importlib import import_module

from tools.benchmark.rows import Case

SUITES = {
    "core": "tools.benchmark.core",
    "head": "tools.benchmark.head",
    "step": "tools.benchmark.step",
    "eval": "tools.benchmark.evaluation",
    "data": "tools.benchmark.data",
    "growth": "tools.benchmark.growth",
}


def cases(suite: str, device: str) -> Iterator[Case]:
    """The cases of a suite, each built when it is asked for."""
    built: Iterator[Case] = import_module(SUITES[suite]).cases(device)
    return built
