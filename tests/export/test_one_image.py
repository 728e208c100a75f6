"""Inference written for one image gives what Detectron2's own gives."""

from typing import Any

import pytest
import torch

from fam_det.export.compare import agreement
from fam_det.export.formats import detect
from fam_det.export.one_image import one_image
from tests.export.test_exporting import build


def image(height: int, width: int) -> torch.Tensor:
    return 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def proposals(detector: Any, size: tuple[int, int]) -> dict[str, torch.Tensor]:
    inputs = [{"image": image(*size)}]
    with torch.no_grad():
        images = detector.preprocess_image(inputs)
        found, _ = detector.proposal_generator(images, detector.backbone(images.tensor), None)
    boxes, logits = found[0].proposal_boxes.tensor, found[0].objectness_logits
    return {"image": images.tensor, "boxes": boxes, "logits": logits}


@pytest.mark.parametrize("name", ["Mask R-CNN", "Cascade R-CNN"])
@pytest.mark.parametrize("size", [(96, 128), (45, 70)])
def test_it_equals_detectron2s(name: str, size: tuple[int, int]) -> None:
    detector = build(name)
    detector.proposal_generator.min_box_size = 4.0
    expected, detections = proposals(detector, size), detect(detector, image(*size))
    with one_image(detector):
        found = proposals(detector, size)
        beside = agreement(detect(detector, image(*size)), detections)
    assert len(expected["boxes"]) > 4
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-4)
    assert beside.detections > 4
    assert beside.close, beside.text
    after = proposals(detector, size)
    assert all(torch.equal(after[key], value) for key, value in expected.items())


def test_an_image_without_objects_has_no_detections() -> None:
    detector = build("Mask R-CNN")
    detector.roi_heads.box_predictor.test_score_thresh = 1.0
    with one_image(detector):
        found = detect(detector, image(64, 64))
    assert {name: len(x) for name, x in found.items()} == dict.fromkeys(found, 0)
