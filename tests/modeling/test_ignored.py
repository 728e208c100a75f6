"""What is ignored in an image is neither an object nor background."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fam_det.modeling.ignored import IgnoringMatcher, ignoring
from tests.modeling.small_detector import STUDENTS, images, in_training

from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG")
SIZE = (64, 96)


def ignored(*boxes: list[float]) -> Instances:
    found = Instances(SIZE)
    found.gt_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
    found.gt_classes = torch.full((len(boxes),), -1)
    return found


def test_labels_are_those_of_the_objects_but_where_an_ignored_one_would_match() -> None:
    torch.manual_seed(0)
    corner = 60 * torch.rand(40, 2)
    boxes = Boxes(torch.cat([corner, corner + 10 + 20 * torch.rand(40, 2)], 1))
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)
    objects, others = boxes[:3], boxes[3:8]
    inputs = [{"ignored": ignored(*others.tensor.tolist())}]
    iou = pairwise_iou(Boxes.cat([objects, others]), boxes)
    matches, labels = IgnoringMatcher(matcher, inputs)(iou)
    expected_matches, expected = matcher(pairwise_iou(objects, boxes))
    assert torch.equal(matches, expected_matches)
    for j in range(len(boxes)):
        overlap = max(float(pairwise_iou(others, boxes[j])[i]) for i in range(len(others)))
        if expected[j] == 0 and overlap >= 0.3:
            expected[j] = -1
    assert torch.equal(labels, expected)
    assert (labels[3:8] == -1).sum() >= 4  # and not background


@pytest.mark.parametrize(
    "opts",
    [
        (),
        (*CASCADE, "True"),
        ("MODEL.MASK_ON", "True"),
        ("MODEL.STUDENT.META_ARCHITECTURE", "RetinaNet", *STUDENTS["RetinaNet"]),
    ],
)
def test_students_train_with_it(build: Build, storage: EventStorage, opts: tuple[str, ...]) -> None:
    model = in_training(build(*opts))
    parts = [model.student, getattr(model.student, "proposal_generator", None)]
    before = [getattr(part, "anchor_matcher", None) for part in parts]
    batch = images(SIZE, SIZE, SIZE)
    batch[0]["ignored"] = ignored([60.0, 10.0, 90.0, 40.0], [5.0, 5.0, 41.0, 43.0])
    batch[1]["ignored"] = ignored([4.0, 4.0, 40.0, 44.0])
    batch[1]["instances"] = batch[1]["instances"][[]]
    if "MODEL.MASK_ON" in opts:
        from detectron2.structures import PolygonMasks

        for x in batch:
            for found in (x["instances"], x.get("ignored", x["instances"])):
                corners = [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0]]
                found.gt_masks = PolygonMasks([corners] * len(found))
    losses = model(batch)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [getattr(part, "anchor_matcher", None) for part in parts] == before
    assert len(batch[0]["instances"]) == 2  # as it was


@pytest.mark.parametrize("student", list(STUDENTS))
def test_nothing_is_learnt_from_the_objects_of_an_image_without_labels(
    build: Build, storage: EventStorage, student: str
) -> None:
    model = in_training(build("MODEL.STUDENT.META_ARCHITECTURE", student, *STUDENTS[student]))
    batch = images(SIZE)
    batch[0] |= {"instances": batch[0]["instances"][[]], "unlabelled": True}
    batch[0]["ignored"] = ignored([0.0, 0.0, 96.0, 64.0])
    losses = model(batch)
    assert losses.pop("loss_distill") > 0
    assert all(loss == 0 for loss in losses.values())


def test_without_ignored_objects_the_inputs_are_those_given(build: Build) -> None:
    batch = images(SIZE)
    with ignoring(build().student, batch) as inputs:
        assert inputs is batch
