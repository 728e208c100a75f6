"""faster-coco-eval computes the figures of pycocotools."""

import pytest

pytest.importorskip("faster_coco_eval")

from faster_coco_eval import COCOeval_faster
from pycocotools.cocoeval import COCOeval

from tools.benchmark.eval import figures, synthetic_results


def test_all_twelve_figures_are_equal() -> None:
    truth, found = synthetic_results(40)
    want = figures(COCOeval, truth, found)
    assert len(want) == 12
    assert 0.01 < want[0] < 0.9  # neither all wrong nor all right
    assert figures(COCOeval_faster, truth, found) == pytest.approx(want, abs=1e-12)
