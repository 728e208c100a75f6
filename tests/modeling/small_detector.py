"""A small distilled detector on random images, for the tests of the wrapper."""

from typing import Any

import torch
import torch.nn.functional as F

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.training.detection import load_config

from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

STUDENT = "configs/BloodCells/student_distilled.yaml"
TEACHER = "configs/BloodCells/teacher_R_18.yaml"
SMALL = ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.DISTILLER.MID_CHANNELS", "16"]
STUDENTS: dict[str, tuple[str, ...]] = {
    "GeneralizedRCNN": (),
    "RetinaNet": (
        *("MODEL.RETINANET.IN_FEATURES", "['p3', 'p4', 'p5', 'p6']"),
        *("MODEL.RETINANET.NUM_CLASSES", "3", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"),
        *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256]]"),
    ),
}
# Heads of the teacher, whose FPN is 24 wide, on the student's of 16.
THIN = (
    *("MODEL.RPN.CONV_DIMS", "[24]"),
    *("MODEL.TEACHER.INHERIT", "['proposal_generator', 'roi_heads']"),
    *("MODEL.DISTILLER.NAME", "LayerToLayerDistiller", "MODEL.DISTILLER.FAM.INIT", "identity"),
)


def small_config(*opts: str) -> CfgNode:
    """The blood cell student with 16 FPN channels and a random teacher with 24."""
    teacher = [
        "MODEL.TEACHER.CONFIG",
        TEACHER,
        "MODEL.TEACHER.OPTS",
        "['MODEL.FPN.OUT_CHANNELS', 24]",
    ]
    return load_config(STUDENT, [*SMALL, *teacher, *opts])


def in_training(model: Any) -> Any:
    """The model as a trainer prepares it."""
    model.load_teacher()
    return model.train()


def images(*sizes: tuple[int, int], seed: int = 0) -> list[dict[str, Any]]:
    """Inputs of the given (H, W), two boxes each."""
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for size in sizes:
        instances = Instances(size)
        instances.gt_boxes = Boxes(torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 16.0, 60.0, 60.0]]))
        instances.gt_classes = torch.tensor([0, 1])
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": size[0], "width": size[1]})
    return batch


def with_teacher_images(*sizes: tuple[int, int], scale: float = 2.0) -> list[dict[str, Any]]:
    """Such inputs with images for a teacher that sees larger ones."""
    batch = images(*sizes)
    for x in batch:
        size = [round(side * scale) for side in x["image"].shape[1:]]
        x["teacher_image"] = F.interpolate(x["image"][None].float(), size)[0].to(torch.uint8)
    return batch
