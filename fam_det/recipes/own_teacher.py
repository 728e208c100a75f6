"""The config of a teacher of one's own: a detector of a backbone's name, trained alone."""

from fam_det.config import default_config
from fam_det.files.config_file import merge_config
from fam_det.recipes.data import CocoData, check_same_classes
from fam_det.recipes.overrides import Override, Overrides
from fam_det.recipes.recipe import (
    Recipe,
    Request,
    build_recipe,
    class_overrides,
    data_note,
    rcnn_name,
    run_overrides,
)
from fam_det.recipes.student import student_overrides, weights_note
from fam_det.recipes.teacher import TEMPLATES

from detectron2 import model_zoo
from detectron2.config import CfgNode

KIND = "GeneralizedRCNN"
FLAG = "--train-teacher"
# Detectron2 enlarges the images of COCO, of 480 pixels, to 800: smaller ones by as much.
COCO_SIDE, MULTIPLE = 480, 32  # pixels of the shorter side; sizes are rounded to a stride


def derive_teacher(request: Request) -> Recipe:
    """Derives the config that trains ``request.teacher``, the name of a backbone.

    It is the zoo's R-CNN with FPN, of masks where every object has one, with the student's rules
    for weights, schedule and classes. A ValueError names the flag that cannot be met.
    """
    name, weights = request.teacher, request.teacher_weights
    train, val = request.train, request.val
    check_same_classes(train, val)
    merge_config(template := default_config(), model_zoo.get_config_file(TEMPLATES[KIND]))
    masks = train.has_masks and val.has_masks
    overrides = student_overrides(name, weights, KIND, template.MODEL.FPN.IN_FEATURES, FLAG)
    overrides |= class_overrides(request, masks) | _sizes(template, train)
    overrides |= run_overrides(request, KIND)
    notes = [f"teacher {rcnn_name(masks)} {name}, trained alone", data_note(request)]
    notes += weights_note(weights, FLAG)
    return build_recipe(overrides, request.options, notes, template)


def _sizes(template: CfgNode, data: CocoData) -> Overrides:
    """Returns the sizes of images that are smaller than COCO's, none for others."""
    share, node = min(data.size) / COCO_SIDE, template.INPUT
    if share >= 1:
        return {}
    reason = f"enlarged as COCO's are, {node.MIN_SIZE_TEST} / {COCO_SIDE}"
    trained = sorted({_rounded(share * x) for x in node.MIN_SIZE_TRAIN})
    return {
        "INPUT.MIN_SIZE_TRAIN": Override(trained, reason),
        "INPUT.MIN_SIZE_TEST": Override(_rounded(share * node.MIN_SIZE_TEST)),
    }


def _rounded(side: float) -> int:
    return max(round(side / MULTIPLE), 1) * MULTIPLE
