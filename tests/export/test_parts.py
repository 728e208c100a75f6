"""The time of a detector's parts, on a clock that ticks whenever it is read."""

from itertools import count

import pytest
import torch

from fam_det.export import parts
from fam_det.export.parts import part_seconds
from tests.export.test_exporting import build

IMAGE = torch.full((3, 64, 64), 100.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # FPN: before and after its backbone; box head: before and after the masks
        (
            "Mask R-CNN",
            {"backbone": 1, "FPN": 2, "RPN": 1, "box head": 3, "mask head": 2, "the rest": 4},
        ),
        ("RetinaNet", {"backbone": 1, "FPN": 2, "head": 1, "the rest": 3}),
    ],
)
def test_each_moment_counts_for_the_innermost_part(
    name: str, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(parts, "read_clock", lambda _: float(next(ticks)))
    detector = build(name)
    found = part_seconds(detector, IMAGE, seconds=0.0)
    assert found == expected
    assert list(found) == list(expected)  # in the order of the table
    assert not any(x._forward_hooks or x._forward_pre_hooks for x in detector.modules())
