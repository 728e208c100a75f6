"""FGFI's cells near objects, and DKD's logits of regions, against what Detectron2 computes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fam_det.modeling.distillers.fgfi import cell_mask, near_objects
from fam_det.modeling.head_loss import box_outputs
from fam_det.modeling.hooks import captured_backbone
from tests.modeling.small_detector import images, in_training

from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]


def iou(a: list[float], b: list[float]) -> float:
    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(x1 - x0, 0.0) * max(y1 - y0, 0.0)

    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return both / (area(*a) + area(*b) - both)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_an_anchor_is_near_when_its_iou_is_above_the_share_of_the_best(threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def boxes(number: int, size: float) -> Boxes:
        corner = 50 * torch.rand(number, 2, generator=generator)
        return Boxes(torch.cat([corner, corner + size * (0.5 + torch.rand(number, 2))], dim=1))

    anchors = [boxes(12, 10.0), boxes(3, 30.0)]
    objects = [boxes(2, 15.0), boxes(1, 25.0), boxes(0, 1.0)]
    near = near_objects(anchors, objects, threshold)
    every = [anchor for level in anchors for anchor in level.tensor.tolist()]
    for image, of_image in enumerate(objects):
        best = [max(iou(anchor, o) for anchor in every) for o in of_image.tensor.tolist()]
        expected = [
            any(
                iou(anchor, o) > threshold * b
                for o, b in zip(of_image.tensor.tolist(), best, strict=True)
            )
            for anchor in every
        ]
        assert torch.cat([level[image] for level in near]).tolist() == expected


def test_a_cell_is_near_when_one_of_its_anchors_is() -> None:
    mask = torch.zeros(1, 2 * 3 * 2, dtype=torch.bool)
    mask[0, 9] = True  # the second anchor of row 1, column 1
    assert cell_mask(mask, torch.zeros(1, 4, 2, 3)).nonzero().tolist() == [[0, 1, 1]]


def test_the_anchors_of_a_small_object_count_on_the_fine_level_only(
    build: Build, storage: EventStorage
) -> None:
    model = in_training(build("MODEL.DISTILLER.NAME", "FGFIDistiller"))
    inputs = images((128, 128))
    inputs[0]["instances"] = inputs[0]["instances"][:1]
    inputs[0]["instances"].gt_boxes = Boxes(torch.tensor([[40.0, 40.0, 64.0, 64.0]]))
    with model.distiller.capture(model.student, model.teacher.detector, inputs) as seen:
        model.student(inputs)
    levels = list(model.distiller.adapters)
    masks = near_objects([seen["anchors"][level] for level in levels], seen["gt_boxes"], 0.5)
    counts = dict(zip(levels, (int(mask.sum()) for mask in masks), strict=True))
    assert counts["p2"] > 0
    assert counts["p5"] == counts["p6"] == 0


def test_the_logits_that_are_seen_are_those_of_the_students_loss(
    build: Build, storage: EventStorage
) -> None:
    model = in_training(build("MODEL.DISTILLER.NAME", "DKDDistiller"))
    inputs = images((64, 96), (96, 64))
    with (
        captured_backbone(model.backbone) as captured,
        model.distiller.capture(model.student, model.teacher.detector, inputs) as seen,
    ):
        losses = model.student(inputs)
    again, _ = box_outputs(model.student.roi_heads, captured["features"], seen["boxes"])
    torch.testing.assert_close(seen["logits"], again)
    torch.testing.assert_close(F.cross_entropy(seen["logits"], seen["classes"]), losses["loss_cls"])


def test_a_teacher_that_is_the_student_has_nothing_to_teach(
    build: Build, storage: EventStorage
) -> None:
    model = in_training(build("MODEL.DISTILLER.NAME", "DKDDistiller"))
    inputs = images((64, 64))
    with (
        captured_backbone(model.backbone) as captured,
        model.distiller.capture(model.student, model.student, inputs) as seen,
    ):
        model.student(inputs)
    features = captured["features"]
    loss = model.distiller(features, features, {}, **seen)["roi_logits"]
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_the_teacher_must_have_its_box_head(build: Build, tmp_path: Any) -> None:
    model = build()
    backbone = {
        f"backbone.{key}": value for key, value in model.teacher.backbone.state_dict().items()
    }
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    weights = ("MODEL.TEACHER.WEIGHTS", str(tmp_path / "backbone.pth"))
    build(*weights).load_teacher()
    with pytest.raises(ValueError, match=r"MODEL.TEACHER.WEIGHTS: .*roi_heads"):
        build(*weights, "MODEL.DISTILLER.NAME", "DKDDistiller").load_teacher()
