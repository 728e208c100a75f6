"""Every peer trains through the wrapper, with the key that FAM uses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.modeling.small_detector import images

from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
PEERS = ["FitNetDistiller", "PKDDistiller", "CWDDistiller"]
SAME_WIDTH = ("MODEL.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNELS', 16]")


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("opts", [(), SAME_WIDTH], ids=["other width", "same width"])
def test_a_peer_trains_the_student_and_all_of_itself(
    build: Build, storage: EventStorage, name: str, opts: tuple[str, ...]
) -> None:
    model = build("MODEL.DISTILLER.NAME", name, *opts).train()
    losses = model(images((64, 96), (96, 64)))
    assert torch.isfinite(losses["loss_fam"])
    losses["loss_fam"].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    assert {f"distiller/loss_p{i}" for i in range(2, 7)} <= set(storage.latest())
    needs_adapter = name == "FitNetDistiller" or not opts
    assert any(k.startswith("distiller.") for k in model.state_dict()) == needs_adapter


def test_a_temperature_of_zero_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"CWD.TEMPERATURE: got 0.0, expected more than 0"):
        build("MODEL.DISTILLER.NAME", "CWDDistiller", "MODEL.DISTILLER.CWD.TEMPERATURE", "0.0")
