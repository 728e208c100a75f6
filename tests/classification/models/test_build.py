"""Networks by name: what a wrong name says, and what is imported when."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from classification.models import build_model, stage_features


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="name: got 'resnet18', expected one of .*'ResNet18'.*torchvision/NAME"
    ):
        build_model("resnet18")


def test_a_foreign_network_is_refused() -> None:
    with pytest.raises(TypeError, match="model: got Linear, expected a network of"):
        stage_features(nn.Linear(3, 3), torch.zeros(1, 3))


@pytest.mark.slow
def test_timm_is_not_imported_before_it_is_needed() -> None:
    check = "import sys, classification.models; sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_without_timm_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm is missing: pip install timm"):
        build_model("timm/mobilenetv1_100")
