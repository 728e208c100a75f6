"""Fixtures of the wrapper's tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fam_det.files.metrics_file import LOG_PERIOD
from tests.modeling.small_detector import small_config

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    """Detectron2's models log in training and need one."""
    with EventStorage(LOG_PERIOD - 1) as storage:
        yield storage


@pytest.fixture
def build() -> Callable[..., Any]:
    """Builds the small distilled detector, with KEY VALUE pairs of its config."""

    def _build(*opts: str) -> Any:
        torch.manual_seed(0)
        return build_model(small_config(*opts))

    return _build
