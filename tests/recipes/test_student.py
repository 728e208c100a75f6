"""A student's keys out of its name."""

from pathlib import Path
from typing import Any

import pytest

from fam_det.recipes.student import student_overrides

ALL = ["res2", "res3", "res4", "res5"]
RGB_MEAN = [123.675, 116.28, 103.53]


def values(
    name: str, weights: str | None = None, architecture: str = "GeneralizedRCNN"
) -> dict[str, Any]:
    overrides = student_overrides(name, weights, architecture, ALL)
    return {key.removeprefix("MODEL."): override.value for key, override in overrides.items()}


def test_resnet18_is_as_in_the_coco_recipe() -> None:
    assert values("resnet18") == {
        "BACKBONE.NAME": "build_resnet_fpn_backbone",
        "FPN.IN_FEATURES": ALL,
        "RESNETS.OUT_FEATURES": ALL,
        "RESNETS.DEPTH": 18,
        "RESNETS.RES2_OUT_CHANNELS": 64,
        "INPUT.FORMAT": "RGB",
        "PIXEL_MEAN": RGB_MEAN,
        "PIXEL_STD": [58.395, 57.12, 57.375],
        "WEIGHTS": "torchvision://resnet18",
    }


def test_resnet50_has_its_stride_where_torchvision_has() -> None:
    got = values("resnet50")
    assert (got["RESNETS.DEPTH"], got["RESNETS.STRIDE_IN_1X1"]) == (50, False)
    assert "RESNETS.RES2_OUT_CHANNELS" not in got


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("GeneralizedRCNN", "build_mobilenet_v2_fpn_backbone"),
        ("RetinaNet", "build_retinanet_mobilenet_v2_fpn_backbone"),
    ],
)
def test_mobilenet_v2(architecture: str, name: str) -> None:
    got = values("mobilenet_v2", architecture=architecture)
    assert (got["BACKBONE.NAME"], got["BACKBONE.FREEZE_AT"]) == (name, 0)
    assert got["WEIGHTS"] == "torchvision://mobilenet_v2"


def test_timm_network_sees_its_own_statistics() -> None:
    pytest.importorskip("timm")
    got = values("timm://mobilenetv3_small_100")
    assert got["BACKBONE.NAME"] == "build_timm_fpn_backbone"
    assert got["TIMM.NAME"] == "mobilenetv3_small_100"
    assert got["WEIGHTS"] == "timm://mobilenetv3_small_100"
    assert got["PIXEL_MEAN"] == pytest.approx(RGB_MEAN)
    assert got["INPUT.FORMAT"] == "RGB"


def test_from_scratch_the_batchnorms_are_real_and_everything_learns() -> None:
    got = values("resnet18", "none")
    assert (got["WEIGHTS"], got["RESNETS.NORM"], got["BACKBONE.FREEZE_AT"]) == ("", "BN", 0)


def test_weights_of_a_file_or_an_address(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.touch()
    assert values("resnet18", str(file))["WEIGHTS"] == str(file)
    msra = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
    assert values("resnet50", msra)["WEIGHTS"] == msra
    with pytest.raises(ValueError, match=r"--student-weights: no.pth does not exist; give a"):
        values("resnet18", "no.pth")


def test_unknown_names_are_one_line_with_close_ones() -> None:
    message = r"--student: got 'resnet8' \(did you mean resnet18\?\), expected one of resnet18, .*"
    with pytest.raises(ValueError, match=message + "or timm://NAME"):
        values("resnet8")
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="--student: got 'mobilenetv3_smal_100', expected a name"):
        values("timm://mobilenetv3_smal_100")
