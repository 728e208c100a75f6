"""Students of random weights that find what a teacher finds: in PyTorch and in exported graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fam_det.export.formats import FORMATS, detect
from fam_det.recipes.recorded_outputs import (
    RecordedOutputs,
    fold_classes,
    record_outputs,
    replay_outputs,
)
from fam_det.training.detection import load_config
from tests.modeling.test_detectors import fcos

from detectron2.config import instantiate
from detectron2.modeling import build_model

TEACHER = "configs/BloodCells/teacher_R_18.yaml"
DENSE = [
    *("MODEL.META_ARCHITECTURE", "RetinaNet"),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32], [64], [128], [256]]"),
    *("MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']"),
    *("MODEL.FPN.IN_FEATURES", "['res3', 'res4', 'res5']"),
]
IMAGE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1)) * 255
NO_DATA = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]
TOPK = ["MODEL.RPN.PRE_NMS_TOPK_TEST", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "30"]
FEWER = (5, 10)


def build(*opts: str) -> Any:
    torch.manual_seed(0)
    cfg = load_config(TEACHER, [*NO_DATA, *TOPK, *opts])
    return build_model(cfg).eval().requires_grad_(False)


@torch.no_grad()
def scattered(detector: Any) -> Any:
    """Gives a random detector scores some of which pass the threshold."""
    for layer in detector.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)
    if hasattr(detector, "roi_heads"):
        nn.init.normal_(detector.roi_heads.box_predictor.cls_score.weight, std=0.003)
    else:
        nn.init.normal_(detector.head.cls_score.bias, mean=-5.5)
    return detector


def candidates(recorded: RecordedOutputs, threshold: float = 0.05) -> int:
    return int((recorded.probabilities[:, :-1] > threshold).sum())


@pytest.fixture(scope="module")
def teacher() -> Any:
    return scattered(build())


@pytest.mark.parametrize("classes", [3, 5])
def test_thin_student_finds_what_its_teacher_does(teacher: Any, classes: int) -> None:
    student = build("MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_HEADS.NUM_CLASSES", str(classes))
    found = record_outputs(teacher, IMAGE)
    replay_outputs(student, IMAGE, found)
    given = record_outputs(student, IMAGE)
    assert 0 < found.proposals < candidates(found) != found.detections > 0
    torch.testing.assert_close(given.logits, found.logits)
    torch.testing.assert_close(given.deltas, found.deltas)
    assert (given.proposals, given.detections) == (found.proposals, found.detections)
    assert candidates(given) == candidates(found)


def test_few_proposals_are_the_teachers_with_as_few(teacher: Any) -> None:
    pre, post = map(str, FEWER)
    keys = ("MODEL.RPN.PRE_NMS_TOPK_TEST", pre, "MODEL.RPN.POST_NMS_TOPK_TEST", post)
    student, found = build(*keys), record_outputs(teacher, IMAGE, FEWER)
    replay_outputs(student, IMAGE, found)
    given = record_outputs(student, IMAGE)
    assert given.proposals == found.proposals == FEWER[1]
    assert given.detections == found.detections
    assert record_outputs(teacher, IMAGE).proposals > FEWER[1]  # its own number is back


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_exported_student_finds_the_same(name: str, teacher: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    student = build("MODEL.FPN.OUT_CHANNELS", "8")
    replay_outputs(student, IMAGE, record_outputs(teacher, IMAGE))
    expected = detect(student, IMAGE)
    found = FORMATS[name].export(student, IMAGE, tmp_path / "file")(IMAGE)
    torch.testing.assert_close(found["scores"], expected["scores"])


def test_dense_student_finds_what_its_teacher_does() -> None:
    all_of_them = (*DENSE, "TEST.DETECTIONS_PER_IMAGE", "1000")
    found = record_outputs(scattered(build(*all_of_them)), IMAGE)
    thin = ("MODEL.FPN.OUT_CHANNELS", "8", "MODEL.RETINANET.NUM_CLASSES", "90")
    student = build(*all_of_them, *thin)
    replay_outputs(student, IMAGE, found)
    given = record_outputs(student, IMAGE)
    assert 0 < given.detections == found.detections < 1000
    assert given.proposals == 0


def test_fcos_can_be_a_teacher_of_dense_students() -> None:
    teacher, image = instantiate(fcos(16)).eval().requires_grad_(False), IMAGE.repeat(1, 2, 2)
    replay_outputs(teacher, image, None)
    found = record_outputs(teacher, image)
    assert found.detections == 5  # as many as it may find
    student = build(*DENSE, "TEST.DETECTIONS_PER_IMAGE", "7")
    replay_outputs(student, image, found)
    assert record_outputs(student, image).detections == 7  # as its anchors are others


@pytest.mark.parametrize("opts", [(), DENSE])
def test_without_a_teacher_all_that_may_be_found_is_found(opts: Any) -> None:
    student = build(*opts, "TEST.DETECTIONS_PER_IMAGE", "7")
    replay_outputs(student, IMAGE, None)
    given = record_outputs(student, IMAGE)
    assert (given.proposals, given.detections) == (0 if opts else 30, 7)


def test_classes_are_folded_by_their_number() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.2, 0.6]])
    best, which = fold_classes(scores, 2)  # 0, 2, 4 and 1, 3
    assert best.tolist() == scores[0, [4, 1]][None].tolist()
    assert which.tolist() == [[4, 1]]
    more, _ = fold_classes(scores, 7)
    assert more.tolist() == [[*scores[0].tolist(), scores[0, 0].item(), scores[0, 0].item()]]
