"""A teacher of one's own, by what Detectron2's own recipes have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fam_det.config import default_config
from fam_det.recipes.data import CocoData, read_coco
from fam_det.recipes.meter import test_size as size_of
from fam_det.recipes.recipe import Recipe, Request, derive_teacher
from fam_det.training.detection import load_config
from tests.recipes.conftest import POLYGON, content

from detectron2 import model_zoo

ZOO = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
Write = Callable[[dict[str, Any]], tuple[str, str]]


def recipe_of(data: CocoData, name: str = "resnet50", **other: Any) -> Recipe:
    return derive_teacher(Request(name, "", train=data, val=data, output="output/t", **other))


@pytest.fixture
def large(write: Write) -> Callable[..., CocoData]:
    """A data set of COCO's size of images."""

    def read(**fields: Any) -> CocoData:
        data = content(("a", "b"), 6, **fields)
        for image in data["images"]:
            image |= {"height": 480, "width": 640}
        return read_coco("--train", *write(data))

    return read


def test_on_images_as_those_of_coco_it_is_the_zoos_detector(large: Any, tmp_path: Path) -> None:
    recipe = recipe_of(large())
    expected = model_zoo.get_config(ZOO)
    for node in ("FPN", "ANCHOR_GENERATOR", "RPN", "ROI_BOX_HEAD", "META_ARCHITECTURE", "MASK_ON"):
        assert recipe.cfg.MODEL[node] == expected.MODEL[node]
    for key in ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST"):
        assert recipe.cfg.INPUT[key] == expected.INPUT[key]
    assert recipe.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert recipe.cfg.MODEL.WEIGHTS == "torchvision://resnet50"
    assert (recipe.cfg.SOLVER.MAX_ITER, recipe.cfg.SOLVER.BASE_LR) == (1288, 0.01)
    assert recipe.cfg.MODEL.DISTILLER == default_config().MODEL.DISTILLER
    file = tmp_path / "teacher.yaml"
    file.write_text(recipe.to_yaml())
    assert load_config(str(file), []) == recipe.cfg


def test_smaller_images_are_enlarged_as_much_as_those_of_coco(coco: Any) -> None:
    cfg = recipe_of(coco("a")).cfg  # of 64 x 96, times 800 / 480: 107
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) == ((96,), 96)
    assert size_of((64, 640), cfg) == (96, 960)  # long ones are, too


def test_from_scratch_everything_learns(coco: Any) -> None:
    model = recipe_of(coco("a"), teacher_weights="none").cfg.MODEL
    assert (model.WEIGHTS, model.RESNETS.NORM, model.BACKBONE.FREEZE_AT) == ("", "BN", 0)


def test_weights_of_the_zoo_take_the_images_that_they_were_trained_on(coco: Any) -> None:
    recipe = recipe_of(coco("a"), teacher_weights=ZOO)
    expected = model_zoo.get_config(ZOO)
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        assert recipe.cfg.MODEL[key] == expected.MODEL[key]
    assert recipe.cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert recipe.cfg.MODEL.WEIGHTS == model_zoo.get_checkpoint_url(ZOO)


def test_objects_with_masks_make_a_mask_rcnn(coco: Any) -> None:
    recipe = recipe_of(coco("a", segmentation=POLYGON), "resnet18")
    assert recipe.cfg.MODEL.MASK_ON
    assert recipe.notes[0] == "teacher Mask R-CNN resnet18, trained alone"


def test_wrong_names_are_those_of_its_flags(coco: Any) -> None:
    with pytest.raises(ValueError, match=r"--train-teacher: got 'resnet5' \(did you mean resnet50"):
        recipe_of(coco("a"), "resnet5")
    with pytest.raises(ValueError, match=r"--teacher-weights: no.pth does not exist"):
        recipe_of(coco("a"), teacher_weights="no.pth")
