"""The suites by name; one that needs more than PyTorch is imported when it runs."""

from collections.abc import Iterator
from importlib import import_module

from tools.benchmark.rows import Case

SUITES = {  # module, function
    "core": ("core", "cases"),
    "head": ("head", "cases"),
    "step": ("step", "cases"),
    "eval": ("evaluation", "cases"),
    "data": ("data", "cases"),
    "growth": ("head", "growth_cases"),
    "kernels": ("kernels", "cases"),
}


def cases(suite: str, device: str) -> Iterator[Case]:
    """Yields the cases of a suite, each built when it is asked for."""
    module, function = SUITES[suite]
    yield from getattr(import_module(f"tools.benchmark.{module}"), function)(device)
