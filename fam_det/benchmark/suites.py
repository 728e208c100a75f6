"""The suites by name; one that needs more than PyTorch is imported when it runs."""

from collections.abc import Iterator
from importlib import import_module

from fam_det.benchmark.rows import Case

SUITES = {
    "core": "fam_det.benchmark.core",
    "head": "fam_det.benchmark.head",
    "step": "fam_det.benchmark.step",
    "eval": "fam_det.benchmark.evaluation",
    "data": "fam_det.benchmark.data",
    "growth": "fam_det.benchmark.growth",
}


def cases(suite: str, device: str) -> Iterator[Case]:
    """The cases of a suite, each built when it is asked for."""
    built: Iterator[Case] = import_module(SUITES[suite]).cases(device)
    return built
