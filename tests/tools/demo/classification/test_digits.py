"""Which stages run, with which command, and how long they are."""

import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tools.demo.classification.fake_training import FakeTraining, options
from tools.demo.digits import BASELINE, FAM_KD, TEACHER, DigitsDemo
from tools.demo.pipeline import clear, progress_costs, read_state, run_demo
from tools.demo.progress import Progress

NAMES = ["teacher", "student_baseline", "student_fam_kd"]


def run(demo: DigitsDemo) -> FakeTraining:
    training = FakeTraining()
    with Path(os.devnull).open("w") as nowhere:
        run_demo(demo, Progress(progress_costs(demo), nowhere), training)
    return training


def test_stages_run_in_order_and_once(demo: DigitsDemo) -> None:
    training = run(demo)
    assert training.stages == NAMES
    names = ("teacher", "student", "fam_kd")
    for command, config in zip(training.commands, names, strict=True):
        assert command[:2] == [sys.executable, str(demo.root / "tools" / "train_classifier.py")]
        file = str(demo.root / "configs" / "Digits" / f"{config}.yaml")
        assert command[2:5] == ["--config-file", file, "--resume"]
    assert run(demo).stages == []
    clear(demo)
    assert not any(demo.output.iterdir())


def test_students_differ_in_the_distillation_alone(demo: DigitsDemo) -> None:
    teacher, alone, taught = map(options, run(demo).commands)
    assert "MODEL.TEACHER.WEIGHTS" not in teacher | alone
    weights = Path(taught.pop("MODEL.TEACHER.WEIGHTS"))
    assert weights == Path(teacher["OUTPUT_DIR"]) / "model_final.pth"
    assert taught.pop("OUTPUT_DIR") != alone.pop("OUTPUT_DIR")
    assert taught == alone == {"SEED": "1"}
    alone_cfg, taught_cfg = demo.cfg(BASELINE), demo.cfg(FAM_KD).clone()
    assert taught_cfg.MODEL.TEACHER.NAME == demo.cfg(TEACHER).MODEL.STUDENT.NAME
    taught_cfg.defrost()
    taught_cfg.MODEL.TEACHER = alone_cfg.MODEL.TEACHER
    taught_cfg.MODEL.DISTILLER = alone_cfg.MODEL.DISTILLER
    assert taught_cfg == alone_cfg


def test_result_counts_the_networks_parameters(demo: DigitsDemo) -> None:
    run(demo)
    # 3x3 convolutions 3-16-16-16, 16-32-32, 32-64-64; shortcuts 1x1; batch norms; 64 to 10
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    parameters = convolutions + shortcuts + norms + 64 * 10 + 10
    state = read_state(demo.folder(FAM_KD))
    assert state["result"] == {"top-1": 86.0, "parameters": parameters}


def test_other_settings_train_anew(demo: DigitsDemo) -> None:
    run(demo)
    assert run(replace(demo, opts=["SOLVER.BASE_LR", "0.1"])).stages == NAMES


def test_schedule_in_epochs_or_iterations(demo: DigitsDemo) -> None:
    assert demo.max_iter(BASELINE) == demo.max_iter(FAM_KD) == 125
    # 4,000 images in batches of 64: 62.5 to the epoch
    assert replace(demo, opts=["SOLVER.EPOCHS", "3"]).max_iter(BASELINE) == 188
    assert replace(demo, opts=["SOLVER.MAX_ITER", "30"]).max_iter(BASELINE) == 30


@pytest.mark.parametrize("stage", [TEACHER, BASELINE, FAM_KD], ids=NAMES)
def test_learning_curves_have_points(demo: DigitsDemo, stage: object) -> None:
    cfg = demo.cfg(stage)  # type: ignore[arg-type]
    assert cfg.SOLVER.MAX_ITER / cfg.TEST.EVAL_PERIOD >= 4


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        (["SOLVER.LENGTH", "3"], "SOLVER.LENGTH"),
        (["MODEL.NUM_CLASSES", "7"], "MODEL.NUM_CLASSES: got 7"),
        (["SOLVER.EPOCHS", "-1"], "SOLVER.EPOCHS: got -1"),
    ],
)
def test_wrong_options_are_told_at_once(demo: DigitsDemo, opts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        progress_costs(replace(demo, opts=opts))


def test_tool_tells_a_wrong_option_in_a_line(
    demo: DigitsDemo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = str(demo.root / "tools" / "demo" / "classification.py")
    monkeypatch.setattr(sys, "argv", [tool, "--output", str(demo.output), "SOLVER.EPOCHS", "-1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(tool, run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == ["SOLVER.EPOCHS: got -1, expected 0 or more"]
    assert not demo.output.exists()
