"""Networks of timm as Detectron2 backbones, and their pretrained weights."""

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fam_det.modeling  # noqa: F401  registers the backbones and the weights
from fam_det.config import default_config
from fam_det.modeling import TimmBackbone
from fam_det.modeling.backbones.timm import pixel_statistics

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils.file_io import PathManager

timm = pytest.importorskip("timm")

NAME = "test_resnet"  # timm's own for tests: half a million parameters


def config(*opts: Any) -> CfgNode:
    cfg = default_config()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TIMM.NAME = NAME
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.merge_from_list(list(opts))
    return cfg


def build(*opts: Any) -> Any:
    return build_backbone(config(*opts), ShapeSpec(channels=3))


def randomised(model: nn.Module) -> nn.Module:
    """With statistics of BatchNorm that are not its defaults."""
    torch.manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (NAME, "FrozenBN"),
        (NAME, "BN"),
        (NAME, "SyncBN"),
        ("test_efficientnet", "SyncBN"),
        ("mobilenetv3_small_100", "FrozenBN"),
        ("densenet121", "FrozenBN"),
    ],
)
def test_features_are_timms_by_stride(name: str, norm: str) -> None:
    network = randomised(timm.create_model(name, features_only=True)).eval()
    backbone = TimmBackbone(name=name, norm=norm).eval()
    backbone.network.load_state_dict(dict(network.state_dict()), strict=False)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, expected = backbone(x), network(x)
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for (key, shape), want in zip(backbone.output_shape().items(), expected[-4:], strict=True):
        assert tuple(want.shape) == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
        torch.testing.assert_close(features[key], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_convnext", "test_mambaout", "pvt_v2_b0"])
def test_network_without_batch_norm_or_with_channels_last(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = TimmBackbone(name=name)
    shapes = {k: tuple(x.shape[2:]) for k, x in backbone(torch.randn(1, 3, 96, 64)).items()}
    assert shapes == {"res2": (24, 16), "res3": (12, 8), "res4": (6, 4), "res5": (3, 2)}
    assert "no BatchNorm, 'FrozenBN' changes nothing" in caplog.text


def test_frozen_norm_keeps_the_activation_that_timm_has_inside() -> None:
    backbone = TimmBackbone(name="mobilenetv3_small_100")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
    assert backbone(torch.randn(1, 3, 64, 64))["res5"].min() > -0.4  # hard swish: -0.375 at -1.5


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "hrnet_w18_small"])
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    """Detectron2's DDP does not look for unused parameters."""
    backbone = TimmBackbone(name=name, norm="BN", out_features=["res3", "res4"])
    torch.stack([x.sum() for x in backbone(torch.randn(2, 3, 64, 64)).values()]).sum().backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_gradients_do_not_depend_on_where_it_is_built() -> None:
    with torch.no_grad():
        backbone = TimmBackbone(name=NAME)
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(("freeze_at", "last"), [(0, None), (1, "bn1"), (4, "blocks.3")])
def test_freeze_at_freezes_what_comes_before_a_stride(freeze_at: int, last: str | None) -> None:
    network = TimmBackbone(name="mobilenetv3_small_100", norm="BN", freeze_at=freeze_at).network
    parts = ["conv_stem", "bn1", *(f"blocks.{i}" for i in range(6))]
    frozen = parts[: parts.index(last) + 1] if last else []
    for name in parts:
        part = network.get_submodule(name)
        assert any(p.requires_grad for p in part.parameters()) == (name not in frozen)
        norms = {type(m) for m in part.modules() if hasattr(m, "running_var")}
        assert all(issubclass(m, FrozenBatchNorm2d) == (name in frozen) for m in norms)


def test_fpn_has_p2_to_p6_and_retinanets_p3_to_p7() -> None:
    x = torch.randn(1, 3, 128, 128)
    fpn = build("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", *FPN)
    assert {k: v.shape[3] for k, v in fpn(x).items()} == {f"p{i}": 128 >> i for i in range(2, 7)}
    retina = build(
        *("MODEL.BACKBONE.NAME", "build_retinanet_timm_fpn_backbone"),
        *("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
    )
    assert {k: v.shape[3] for k, v in retina(x).items()} == {f"p{i}": 128 >> i for i in range(3, 8)}


FPN = ("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4', 'res5']")


@pytest.fixture
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A classifier whose weights timm takes for the pretrained ones of its network."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    classifier = randomised(timm.create_model(NAME)).eval()
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    local = partial(timm.create_model, pretrained_cfg_overlay={"file": tmp_path / "weights.pth"})
    monkeypatch.setattr(timm, "create_model", local)
    return classifier


@pytest.mark.parametrize(
    ("norm", "builder"),
    [("FrozenBN", "build_timm_backbone"), ("BN", "build_timm_fpn_backbone")],
)
def test_pretrained_weights_give_timms_features(pretrained: Any, norm: str, builder: str) -> None:
    opts = ("MODEL.TIMM.NORM", norm, "MODEL.BACKBONE.NAME", builder, *FPN)
    # conv1 of another part must not be taken for the network's
    model = nn.ModuleDict({"backbone": build(*opts), "conv1": nn.Conv2d(3, 24, 3)}).eval()
    DetectionCheckpointer(model).load(f"timm://{NAME}")
    backbone = getattr(model["backbone"], "bottom_up", model["backbone"])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = pretrained.forward_features(x)
        torch.testing.assert_close(backbone(x)["res5"], expected, rtol=1e-4, atol=1e-4)


def test_weights_are_fetched_once(pretrained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = PathManager.get_local_path(f"timm://{NAME}.r160_in1k")
    assert Path(first).name == f"{NAME}.r160_in1k.pth"
    monkeypatch.setattr(timm, "create_model", None)
    assert PathManager.get_local_path(f"timm://{NAME}.r160_in1k") == first


def test_offline_error_says_what_to_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=f"timm://{NAME}: cannot download.*HF_HOME"):
        PathManager.get_local_path(f"timm://{NAME}")


def test_statistics_of_pixels_are_those_of_the_weights(caplog: pytest.LogCaptureFixture) -> None:
    rgb = pixel_statistics("mobilenetv3_small_100", "RGB")
    assert rgb == {
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
    }
    assert pixel_statistics("resnet18", "BGR")["PIXEL_MEAN"] == rgb["PIXEL_MEAN"][::-1]
    opts = ("MODEL.TIMM.NAME", "mobilenetv3_small_100")
    weights = ("MODEL.WEIGHTS", "timm://mobilenetv3_small_100")
    right = ("INPUT.FORMAT", "RGB", *(x for k, v in rgb.items() for x in (f"MODEL.{k}", v)))
    with caplog.at_level(logging.WARNING):
        build(*opts)
        build(*opts, *weights, *right)
    assert caplog.text == ""
    build(*opts, *weights)  # Detectron2's own: BGR, and a std of 1
    assert "MODEL.PIXEL_STD: got [1.0, 1.0, 1.0], but mobilenetv3_small_100 was" in caplog.text


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.TIMM.NAME", "mobilenetv3_smal_100"), "MODEL.TIMM.NAME.*smal_.*small_100"),
        (("MODEL.TIMM.NAME", ""), "MODEL.TIMM.NAME: got ''"),
        (("MODEL.TIMM.NAME", f"{NAME}.in99k"), "MODEL.TIMM.NAME.*in99k.*r160_in1k"),
        (("MODEL.TIMM.NAME", "test_vit"), r"MODEL.TIMM.NAME: 'test_vit' has maps of stride \[16"),
        (("MODEL.TIMM.NAME", "maxvit_tiny_tf_224"), "MODEL.TIMM.NAME: 'maxvit_.*any size"),
        (("MODEL.TIMM.NORM", "GN"), "MODEL.TIMM.NORM: got 'GN'.*FrozenBN"),
        (("MODEL.TIMM.OUT_FEATURES", "['p2']"), "MODEL.TIMM.OUT_FEATURES.*p2.*res2"),
        (("MODEL.BACKBONE.FREEZE_AT", 7), "MODEL.BACKBONE.FREEZE_AT: got 7"),
        (("MODEL.WEIGHTS", "timm://resnet18"), f"MODEL.WEIGHTS.*resnet18.*timm://{NAME}"),
        (("MODEL.WEIGHTS", "timm://test_resne"), "MODEL.WEIGHTS.*'test_resne'.*test_resnet"),
    ],
)
def test_wrong_config_names_the_key(opts: tuple[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*opts)


def test_network_without_feature_maps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("features_only not implemented")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match=f"MODEL.TIMM.NAME: got '{NAME}', which gives no feature"):
        TimmBackbone(name=NAME)


def test_missing_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="timm is missing: pip install timm"):
        TimmBackbone(name=NAME)
