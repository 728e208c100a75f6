"""A student's keys out of its name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fam_det.recipes.student import student_overrides, weights_note

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
    got = values("resnet50", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert got["WEIGHTS"].endswith(f"/{ZOO}") and got["INPUT.FORMAT"] == "BGR"
    with pytest.raises(ValueError, match=r"--student-weights: no.pth does not exist; give a"):
        values("resnet18", "no.pth")


DETECTRON2 = ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0], True)
TORCHVISION = ("RGB", RGB_MEAN, [58.395, 57.12, 57.375], False)
ZOO = "COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl"
CAFFE = {"conv1_w": np.zeros(1)}


@pytest.mark.parametrize(
    ("weights", "content", "expected"),
    [
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", None, DETECTRON2),
        (f"https://dl.fbaipublicfiles.com/detectron2/{ZOO}", None, DETECTRON2),
        ("model_final_b275ba.pkl", {"__author__": "Detectron2 Model Zoo"}, DETECTRON2),
        ("R-50.pkl", CAFFE, DETECTRON2),
        ("R-50.pkl", {"__author__": "torchvision"}, TORCHVISION),
        ("torchvision://resnet50", None, TORCHVISION),
    ],
)
def test_the_student_takes_the_images_that_its_weights_were_trained_on(
    weights: str, content: Any, expected: Any, tmp_path: Path
) -> None:
    if content is not None:
        weights = str(tmp_path / weights)
        Path(weights).write_bytes(pickle.dumps(content))
    got = values("resnet50", weights)
    keys = ("INPUT.FORMAT", "PIXEL_MEAN", "PIXEL_STD", "RESNETS.STRIDE_IN_1X1")
    assert tuple(got[key] for key in keys) == expected
    assert weights_note(weights) == []


def test_a_checkpoint_takes_the_images_of_the_config_beside_it(tmp_path: Path) -> None:
    weights = tmp_path / "model_final.pth"
    weights.touch()
    (note,) = weights_note(str(weights))
    assert "model_final.pth: nothing says what images it was trained on" in note
    for content, stds in (("seed: 3", [58.395, 57.12, 57.375]), ("{}", [1.0, 1.0, 1.0])):
        (tmp_path / "config.yaml").write_text(content)  # the first is of another project
        assert values("resnet18", str(weights))["PIXEL_STD"] == stds
    assert weights_note(str(weights)) == []


def test_unknown_names_are_one_line_with_close_ones() -> None:
    message = r"--student: got 'resnet8' \(did you mean resnet18\?\), expected one of resnet18, .*"
    with pytest.raises(ValueError, match=message + "or timm://NAME"):
        values("resnet8")
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match="--student: got 'mobilenetv3_smal_100', expected a name"):
        values("timm://mobilenetv3_smal_100")
