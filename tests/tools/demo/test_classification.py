"""The demo of a classifier: what it trains and with what, and its report."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from classification.config import get_cfg
from classification.data.datasets import digits
from classification.engine import load_config
from classification.models import build_model
from tests.tools.demo.conftest import Stage
from tools.demo import classification
from tools.demo.classification import DEMO, find_misread
from tools.demo.study import ROOT

TOP1 = {"teacher": 98.0, "student": 70.0, "fam_kd": 86.0}


@pytest.fixture
def finished(stage: Stage) -> Stage:
    """Fake trainings of networks that say 7 to every image."""
    for name, top1 in TOP1.items():
        cfg = load_config(
            str(ROOT / "configs" / "Digits" / f"{name}.yaml"), ["SOLVER.MAX_ITER", "100"]
        )
        scores = [{"accuracy/top1": top1 / k, "accuracy/top5": 99.0} for k in (3, 2, 1)]
        folder = stage.add(name, yaml.safe_load(cfg.dump()), scores)
        weights = build_model(cfg.MODEL.STUDENT.NAME, 10).state_dict()
        bias = next(key for key in reversed(weights) if key.endswith("bias"))
        for value in weights.values():
            value.zero_()
        weights[bias][7] = 1.0
        stage.save(folder, weights)
    return stage


def test_students_differ_in_the_distillation_alone(finished: Stage) -> None:
    status, started = finished.run(DEMO)
    assert status == 0
    assert [Path(config).stem for config, *_ in started] == list(TOP1)
    teacher, alone, taught = (options for *_, options in started)
    weights = Path(taught.pop("MODEL.TEACHER.WEIGHTS"))
    assert weights == Path(teacher["OUTPUT_DIR"]) / "model_final.pth"
    assert taught.pop("OUTPUT_DIR") != alone.pop("OUTPUT_DIR")
    assert taught == alone == {"SEED": "1"}
    teacher_cfg, alone_cfg, taught_cfg = (load_config(config, []) for config, *_ in started)
    assert taught_cfg.MODEL.TEACHER.NAME == teacher_cfg.MODEL.STUDENT.NAME
    taught_cfg.defrost()
    taught_cfg.MODEL.TEACHER = alone_cfg.MODEL.TEACHER
    taught_cfg.MODEL.DISTILLER = alone_cfg.MODEL.DISTILLER
    assert taught_cfg == alone_cfg
    for cfg in (teacher_cfg, alone_cfg, taught_cfg):  # learning curves have points
        assert cfg.SOLVER.MAX_ITER / cfg.TEST.EVAL_PERIOD >= 4


def test_report(
    finished: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished.run(DEMO)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
        ["teacher", "0.27 M", "98.0", "99.0", "00:50"],
        ["student alone", "0.08 M", "70.0", "99.0", "00:50"],
        ["student with FAM-KD", "0.08 M", "86.0", "99.0", "00:50"],
    ]
    assert "gained 16.0 points of top-1, 57% of its distance to the teacher" in printed
    picture = finished.output / "report.png"
    image = cv2.imread(str(picture))
    assert image.shape[1] > 1000 and len(np.unique(image)) > 50

    # where no digit is misread, the picture has the curves alone
    labels = digits(get_cfg(), train=False).labels
    monkeypatch.setattr(classification, "classify", lambda folder, images: labels[: len(images)])
    finished.run(DEMO)
    assert cv2.imread(str(picture)).shape[0] < image.shape[0]


def test_pictured_digits_are_the_first_of_each_class_that_the_student_alone_misreads(
    finished: Stage,
) -> None:
    """The fake networks say 7 to everything: the first test digit of each class but 7."""
    test = digits(get_cfg(), train=False)
    labels = test.labels.tolist()
    others = [labels.index(digit) for digit in range(10) if digit != 7]
    readings = find_misread([finished.trainings / name for name in TOP1])
    assert [reading.label for reading in readings] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert all(reading.predictions == [7, 7, 7] for reading in readings)
    for reading, index in zip(readings, others, strict=True):
        digit = test.images[index].permute(1, 2, 0).numpy() / 255
        np.testing.assert_allclose(reading.image, digit / digit.max(), atol=1e-6)
