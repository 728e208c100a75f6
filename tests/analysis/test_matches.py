"""What counts as found: the same class, IoU 0.5, one detection an object."""

import pytest
import torch

from fam_det.analysis.detectors import Matches, match
from fam_det.analysis.sections import lowest_score

from detectron2.structures import Boxes, Instances

OBJECTS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
CLASSES = torch.tensor([0, 1])


def detections(*rows: tuple[list[float], int, float]) -> Instances:
    boxes, classes, scores = zip(*rows, strict=True) if rows else ([], [], [])
    return Instances(
        (40, 40),
        pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
        pred_classes=torch.tensor(classes, dtype=torch.long),
        scores=torch.tensor(scores),
    )


@pytest.mark.parametrize(
    ("box", "class_", "found"),
    [
        ([0.0, 0.0, 10.0, 10.0], 0, True),
        ([0.0, 0.0, 10.0, 10.0], 1, False),  # another class
        ([0.0, 0.0, 10.0, 20.0], 0, True),  # 100 of 200 pixels
        ([0.0, 0.0, 10.0, 20.1], 0, False),
    ],
)
def test_an_object_is_found_by_its_class_and_half_its_union(
    box: list[float], class_: int, found: bool
) -> None:
    expected = Matches(2, 1, 0) if found else Matches(2, 0, 1)
    assert match(OBJECTS, CLASSES, detections((box, class_, 0.9))) == expected


def test_a_second_box_on_an_object_is_false() -> None:
    twice = [([0.0, 0.0, 10.0, 10.0], 0, 0.6), ([0.0, 0.0, 10.0, 11.0], 0, 0.9)]
    other = ([20.0, 0.0, 30.0, 10.0], 1, 0.5)
    assert match(OBJECTS, CLASSES, detections(*twice, other)) == Matches(2, 2, 1)


def test_nothing_there_and_nothing_found() -> None:
    assert match(OBJECTS, CLASSES, detections()) == Matches(2, 0, 0)
    nothing = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    alarm = detections(([0.0, 0.0, 10.0, 10.0], 0, 0.9))
    assert match(*nothing, alarm) == Matches(0, 0, 1)
    assert str(Matches(1, 0, 1)) == "0 of 1 object found, 1 false detection"
    assert str(Matches(6, 5, 0)) == "5 of 6 objects found, no false detections"


def test_a_detector_shows_as_many_boxes_as_there_are_objects() -> None:
    box = [0.0, 0.0, 1.0, 1.0]
    images = [detections((box, 0, 0.9), (box, 1, 0.2)), detections((box, 0, 0.1), (box, 0, 0.05))]
    assert lowest_score(images, 3) == pytest.approx(0.1)
    assert lowest_score(images, 0) == pytest.approx(0.9)  # something in every column
    assert lowest_score(images, 9) == pytest.approx(0.05)
    assert lowest_score([detections()], 3) == 0.0
