"""Forward hooks that are removed again, whatever happens while they are there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def forward_hook(part: nn.Module, hook: Callable[[Sequence[Any], Any], None]) -> Iterator[None]:
    """Calls ``hook(inputs, output)`` at every call of ``part`` within this context."""
    handle = part.register_forward_hook(lambda _, inputs, output: hook(inputs, output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def captured_backbone(backbone: nn.Module) -> Iterator[dict[str, Any]]:
    """Records the backbone's padded input size (H, W) and its feature maps by name."""
    captured: dict[str, Any] = {}

    def record(inputs: Sequence[Tensor], features: dict[str, Tensor]) -> None:
        captured.update(padded_size=tuple(inputs[0].shape[-2:]), features=features)

    with forward_hook(backbone, record):
        yield captured
