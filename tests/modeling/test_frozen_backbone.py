"""The teacher's backbone computes the same after it was sped up."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fam_det.modeling.teacher import fold_batch_norm
from fam_det.training.detection import load_config
from tests.modeling.small_detector import images, small_config

from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage


def shake_norms(module: nn.Module) -> None:
    """Statistics and affine parameters as after some training."""
    torch.manual_seed(1)
    for norm in module.modules():
        if hasattr(norm, "running_var"):
            norm.weight.data.uniform_(0.3, 0.8)
            norm.bias.data.normal_(0, 0.1)
            norm.running_mean.data.normal_(0, 0.1)
            norm.running_var.data.uniform_(0.5, 2.0)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "naiveSyncBN"])
def test_backbone_of_every_norm_gives_the_same_maps(norm: str) -> None:
    torch.manual_seed(0)
    cfg = load_config(
        "configs/BloodCells/teacher_R_18.yaml",
        ["MODEL.RESNETS.NORM", norm, "MODEL.FPN.NORM", norm, "MODEL.FPN.OUT_CHANNELS", "16"],
    )
    plain = build_backbone(cfg).double().eval()
    shake_norms(plain)
    fast = copy.deepcopy(plain)
    fold_batch_norm(fast)
    assert not any(hasattr(m, "running_var") for m in fast.modules())
    x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    want, got = plain(x), fast(x)
    for level in want:
        torch.testing.assert_close(got[level], want[level], rtol=1e-10, atol=1e-10)


def test_other_norms_and_plain_convolutions_stay() -> None:
    group = Conv2d(4, 32, 3, norm=get_norm("GN", 32))
    unknown = Conv2d(4, 4, 3, norm=nn.BatchNorm2d(4, track_running_stats=False))
    model = nn.Sequential(group, nn.Conv2d(32, 4, 1), unknown)
    x = torch.randn(2, 4, 8, 8)
    want = model(x)
    fold_batch_norm(model)
    torch.testing.assert_close(model(x), want)
    assert group.norm is not None
    assert unknown.norm is not None


def test_convolution_with_a_bias_and_a_norm() -> None:
    conv = Conv2d(3, 5, 3, bias=True, norm=nn.BatchNorm2d(5)).eval()
    shake_norms(conv)
    x = torch.randn(2, 3, 8, 8)
    want = conv(x)
    fold_batch_norm(conv)
    torch.testing.assert_close(conv(x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.01)])
def test_distilled_loss_hardly_depends_on_how_the_teacher_computes(
    precision: str, tolerance: float
) -> None:
    losses: list[dict[str, Any]] = []
    for fast in (False, True):
        torch.manual_seed(0)
        name = precision if fast else "float32"
        model = build_model(small_config("MODEL.TEACHER.PRECISION", name)).train()
        shake_norms(model.teacher)
        if fast:
            model.load_teacher()
        model.teacher.is_loaded = True  # otherwise the teacher stays unfolded
        with EventStorage(0):
            losses.append(model(images((96, 128), (96, 96))))
        assert fast != any(hasattr(m, "running_var") for m in model.teacher.backbone.modules())
    plain, quick = (x["loss_distill"].item() for x in losses)
    assert quick == pytest.approx(plain, rel=tolerance)
    assert precision == "float32" or plain != quick  # float32 may round to one number


def test_maps_come_in_the_dtype_of_the_step() -> None:
    model = build_model(small_config("MODEL.TEACHER.PRECISION", "bfloat16"))
    maps = model.teacher(images((64, 64)), (64, 64))
    assert {x.dtype for x in maps.values()} == {torch.float32}
    assert all(x.is_contiguous() for x in maps.values())
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.teacher(images((64, 64)), (64, 64))
    assert {x.dtype for x in maps.values()} == {torch.bfloat16}


def test_unknown_precision_names_the_key() -> None:
    with pytest.raises(ValueError, match=r"MODEL.TEACHER.PRECISION: got 'half', expected one of"):
        build_model(small_config("MODEL.TEACHER.PRECISION", "half"))
