"""See what goes through a part of a detector while its own code runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def watched(part: nn.Module, see: Callable[[Sequence[Any], Any], None]) -> Iterator[None]:
    """Within this context, ``see(inputs, output)`` at every call of the part."""
    handle = part.register_forward_hook(lambda _, inputs, output: see(inputs, output))
    try:
        yield
    finally:
        handle.remove()
