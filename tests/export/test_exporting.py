"""Exported detectors give what the detector gives, on an image and on one of another size."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.export.compare import Agreement, agreement, compare
from fam_det.export.formats import FORMATS, detect

from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.modeling import build_model

THIN = [
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "TEST.DETECTIONS_PER_IMAGE", 20),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (16,), "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
    # above the denormal numbers, which onnxruntime takes for 0 on some processors
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1e-6, "MODEL.RETINANET.SCORE_THRESH_TEST", 1e-6),
    *("MODEL.RETINANET.NUM_CLASSES", 3, "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 30),
]
DETECTORS = {
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Cascade R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
# What docs/deploy.md says works. A Mask R-CNN has all that a Faster R-CNN has.
WORKS = [
    ("torchscript", "Mask R-CNN"),
    ("torchscript", "RetinaNet"),
    ("scripted", "Faster R-CNN"),
    ("onnx", "Cascade R-CNN"),
    ("onnx", "RetinaNet"),
    pytest.param("torchscript", "Faster R-CNN", marks=pytest.mark.slow),
    pytest.param("scripted", "Mask R-CNN", marks=pytest.mark.slow),
    pytest.param("onnx", "Faster R-CNN", marks=pytest.mark.slow),
    pytest.param("onnx", "Mask R-CNN", marks=pytest.mark.slow),
]


def build(name: str) -> Any:
    cfg = get_cfg()
    cfg.merge_from_file(model_zoo.get_config_file(DETECTORS[name]))
    cfg.merge_from_list(THIN)
    torch.manual_seed(0)
    detector = build_model(cfg).eval().requires_grad_(False)
    for key, weight in detector.named_parameters():
        if "cls_score" in key or "objectness" in key:
            # scores apart, and below 1: among equal ones rounding chooses
            weight.normal_(std=0.001 if key.startswith("roi_heads") else 0.1)
    return detector


@pytest.mark.parametrize("form, name", WORKS)
def test_exported_detector_gives_the_same_detections(form: str, name: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    detector = build(name)
    image = 255 * torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    run = FORMATS[form].export(detector, image, tmp_path / FORMATS[form].file)
    found = compare(run, partial(detect, detector), image)
    assert found.detections > 4
    assert found.close, found.text


def detections(**changed: Any) -> dict[str, torch.Tensor]:
    return {
        "pred_boxes": torch.tensor([[0.0, 0, 4, 4], [1, 1, 9, 9]]),
        "scores": torch.tensor([0.5, 0.5]),
        "pred_classes": torch.tensor([0, 1]),
    } | changed


def test_a_difference_is_found() -> None:
    expected = detections()
    swapped = {name: x.flip(0) for name, x in expected.items()}
    assert agreement(swapped, expected) == Agreement(2)  # equal scores, the other order
    moved = detections(pred_boxes=torch.tensor([[0.0, 0, 4, 6], [1, 1, 9, 9]]))
    assert agreement(moved, expected).boxes == 2.0
    for other in (
        detections(pred_classes=torch.tensor([0, 2])),
        detections(scores=torch.tensor([0.5, 0.4])),
        {name: x[:1] for name, x in expected.items()},
    ):
        assert not agreement(other, expected).close


def test_equal_scores_may_come_in_any_order() -> None:
    def detection(index: int) -> dict[str, torch.Tensor]:
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]) + index
        return {"pred_boxes": box, "scores": torch.ones(1), "pred_classes": torch.zeros(1)}

    def best_in_pytorch(_: torch.Tensor) -> dict[str, torch.Tensor]:
        return detection(int(torch.zeros(1, 5000).sort(descending=True, dim=1)[1][0, 0]))

    image = torch.zeros(3, 8, 8)
    assert compare(lambda _: detection(0), best_in_pytorch, image).close
    assert not compare(lambda _: detection(7), best_in_pytorch, image).close
