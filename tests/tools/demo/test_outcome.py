"""The table's verdict, and the curves."""

import pytest

from tools.demo.classification import METRIC as TOP1
from tools.demo.detection import METRIC as AP
from tools.demo.outcome import Metric, describe_gain, spread


@pytest.mark.parametrize(
    ("metric", "teacher", "alone", "taught", "words"),
    [
        (AP, 60, 30, 36, "With FAM the same student gained 6.0 AP, 20% of its distance"),
        (AP, 60, 30, 65, "gained 35.0 AP. One"),
        (AP, 60, 30, 30.9, "changed by +0.9, no more than seeds differ"),
        (AP, 60, 30, 29.1, "changed by -0.9, no more than seeds differ"),
        (AP, 60, 30, 28, "FAM did not help on this seed: the student lost 2.0 AP."),
        (AP, 25, 30, 32, "gained 2.0 AP. The teacher was no better"),
        (TOP1, 98, 70, 76, "top-1 accuracy changed by +6.0, no more than seeds differ"),
        (TOP1, 98, 70, 60, "FAM-KD did not help on this seed: the student lost 10.0 points"),
    ],
)
def test_verdict_is_honest(
    metric: Metric, teacher: float, alone: float, taught: float, words: str
) -> None:
    assert words in describe_gain(metric, teacher, alone, taught)


def test_texts_beside_close_points_are_moved_apart() -> None:
    # 7 percent of the highest, 100: at least 7 apart
    assert spread([100, 20, 22]) == [100, 20, 27]
    assert spread([97, 100, 94]) == [101, 108, 94]
