"""Forward hooks as context managers, which remove them also after an error."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn


def forward_hook(
    module: nn.Module, hook: Callable[[Sequence[Any], Any], None]
) -> AbstractContextManager[Any]:
    """Calls ``hook(inputs, output)`` after every call of ``module`` until this context ends."""
    return module.register_forward_hook(lambda _, inputs, output: hook(inputs, output))


@contextmanager
def captured_backbone(backbone: nn.Module) -> Iterator[dict[str, Any]]:
    """Records the backbone's padded input size (H, W) and its feature maps by name."""
    captured: dict[str, Any] = {}

    def record(inputs: Sequence[Tensor], features: dict[str, Tensor]) -> None:
        captured.update(padded_size=tuple(inputs[0].shape[-2:]), features=features)

    with forward_hook(backbone, record):
        yield captured
