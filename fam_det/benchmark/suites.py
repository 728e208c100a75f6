"""The suites by name."""

from collections.abc import Callable, Iterator

from fam_det.benchmark import core, head
from fam_det.benchmark.rows import Case

SUITES: dict[str, Callable[[str], Iterator[Case]]] = {
    "core": core.cases,
    "head": head.cases,
}
