"""MobileNetV2 as a Detectron2 backbone, and the conversion of torchvision's ImageNet weights."""

from typing import Any

import pytest
import torch
import torchvision

import fam_det.modeling  # noqa: F401  registers the backbones
from fam_det.config import default_config
from fam_det.modeling.backbones import pretrained_weights as torchvision_weights
from fam_det.modeling.backbones.mobilenet_v2 import STAGE_ENDS, MobileNetV2

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import PathManager


@pytest.mark.parametrize("width", [0.35, 1.0])
def test_mobilenet_v2_features_are_torchvisions(width: float) -> None:
    backbone = MobileNetV2(width_mult=width, norm="BN").eval()
    network = torchvision.models.mobilenet_v2(width_mult=width).eval()
    network.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 96)
    shapes = backbone.output_shape()
    features = backbone(x)
    for name, end in STAGE_ENDS.items():
        expected = network.features[: end + 1](x)
        torch.testing.assert_close(features[name], expected)
        assert expected.shape[1] == shapes[name].channels
        assert expected.shape[2] == 64 // shapes[name].stride


def test_mobilenet_v2_leaves_out_what_no_feature_needs() -> None:
    assert len(MobileNetV2(out_features=["res3"]).features) == STAGE_ENDS["res3"] + 1


def test_freeze_at_beyond_the_last_stage_is_named() -> None:
    for stage in (-1, 6):
        with pytest.raises(ValueError, match=f"FREEZE_AT: got {stage}, expected 0 to 5"):
            MobileNetV2(norm="BN", freeze_at=stage)


@pytest.mark.parametrize(("freeze_at", "last"), [(0, -1), (2, 3), (5, 17)])
def test_freeze_at_freezes_whole_stages(freeze_at: int, last: int) -> None:
    backbone = MobileNetV2(norm="BN", freeze_at=freeze_at)
    for index, block in enumerate(backbone.features):
        trainable = any(p.requires_grad for p in block.parameters())
        assert trainable == (index > last)
        frozen_norm = any(isinstance(m, FrozenBatchNorm2d) for m in block.modules())
        assert frozen_norm == (index <= last)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width_mult": 0}, "WIDTH_MULT"),
        ({"out_features": ["p2"]}, "OUT_FEATURES.*res2"),
        ({"norm": "GN"}, "MODEL.MOBILENETV2.NORM: got 'GN', expected one of"),
    ],
)
def test_wrong_argument_names_the_key(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MobileNetV2(**kwargs)


def random_download(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torchvision.models.get_model(name).eval().state_dict()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_torchvision_weights_give_torchvisions_features(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(torchvision_weights, "download", random_download)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    cfg = default_config()
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    if name == "mobilenet_v2":
        cfg.MODEL.BACKBONE.NAME = "build_mobilenet_v2_backbone"
    else:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.RESNETS.DEPTH = int(name.removeprefix("resnet"))
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if name == "resnet18" else 256
    model = torch.nn.ModuleDict({"backbone": build_backbone(cfg, ShapeSpec(channels=3))}).eval()
    DetectionCheckpointer(model).load(f"torchvision://{name}")
    network = torchvision.models.get_model(name).eval()
    network.load_state_dict(random_download(name))
    x = torch.randn(1, 3, 64, 64)
    if name == "mobilenet_v2":
        expected = network.features[:18](x)
    else:
        for part in list(network.children())[:-2]:
            expected = part(expected if part is not network.conv1 else x)
    torch.testing.assert_close(model["backbone"](x)["res5"], expected, rtol=1e-4, atol=1e-4)


def test_weights_are_converted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(torchvision_weights, "download", random_download)
    first = PathManager.get_local_path("torchvision://resnet18")
    monkeypatch.setattr(torchvision_weights, "download", None)
    assert PathManager.get_local_path("torchvision://resnet18") == first


def test_unknown_network_lists_the_known() -> None:
    with pytest.raises(ValueError, match="resnet99.*resnet18"):
        PathManager.get_local_path("torchvision://resnet99")


def test_offline_error_says_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(OSError, match=f"cannot download.*put that file at {tmp_path}"):
        PathManager.get_local_path("torchvision://resnet18")
