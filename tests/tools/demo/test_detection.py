"""The demo of a detector: what it trains and with what, what it keeps, and its report."""

import ast
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from fam_det.analysis.processes import lock_folder
from tests.tools.demo.conftest import Stage
from tools.demo import detection
from tools.demo.detection import Digit, match
from tools.demo.scenes import SceneParams, build_dataset
from tools.demo.study import ROOT, Demo

NAMES = ["teacher", "student_baseline", "student_fam"]
FOLDERS = ["teacher_seed1", "student_alone_seed1", "student_with_FAM_seed1"]
AP = {"teacher": 60.0, "student_baseline": 30.0, "student_fam": 36.0}
SCORES = ("AP", "AP50", "AP75", "APs", "APm")


@pytest.fixture
def demo(stage: Stage, few: SceneParams, without_picture: Callable[[Demo], Demo]) -> Demo:
    """Three fake trainings of 100 iterations, in which the first image's first digit is found."""
    config = {"DATASETS": {"TEST": ["digits_val"]}, "MODEL": {}, "SOLVER": {"MAX_ITER": 100}}
    found = {"image_id": 1, "category_id": 4, "bbox": [20.0, 30.0, 25.5, 40.5], "score": 0.9}
    for name, ap in AP.items():
        evaluations = [
            {**{f"bbox/{key}": value for key in SCORES}, "bbox/APl": float("nan")}
            for value in (ap / 3, ap / 2, ap)
        ]
        folder = stage.add(name, config, evaluations)
        weights = {"conv.weight": torch.zeros(30_000, 4), "norm.running_mean": torch.zeros(3)}
        stage.save(folder, {**weights, "distiller.b.weight": torch.zeros(1000)})
        (folder / "inference").mkdir()
        results = json.dumps([{**found, "score": 0.4}, found])
        (folder / "inference" / "coco_instances_results.json").write_text(results)
    return without_picture(replace(detection.DEMO, prepare=partial(build_dataset, params=few)))


def test_three_trainings_run_once_and_the_students_differ_in_the_teacher_alone(
    demo: Demo, stage: Stage
) -> None:
    status, started = stage.run(demo)
    assert status == 0
    assert [config for config, *_ in started] == [f"configs/Demo/{name}.yaml" for name in NAMES]
    teacher, alone, taught = (options for *_, options in started)
    for options, folder in zip((teacher, alone, taught), FOLDERS, strict=True):
        assert options.pop("OUTPUT_DIR") == str(stage.output / folder)
        train, val = ast.literal_eval(options["DATASETS.COCO"])
        assert [train[0], val[0]] == ["digits_train", "digits_val"]
        assert all(Path(path).exists() for path in (*train[1:], *val[1:]))
    assert taught.pop("MODEL.TEACHER.CONFIG") == str(stage.output / FOLDERS[0] / "config.yaml")
    weights = taught.pop("MODEL.TEACHER.WEIGHTS")
    assert weights == str(stage.output / FOLDERS[0] / "model_final.pth")
    assert taught == alone and alone["SEED"] == "1"
    assert not list(stage.output.rglob("model_0*.pth"))
    assert stage.run(demo) == (0, [])


def test_students_have_one_schedule() -> None:
    files = [ROOT / "configs" / "Demo" / f"{name}.yaml" for name in NAMES[1:]]
    alone, taught = (CfgNode.load_yaml_with_base(str(file)) for file in files)
    assert alone["SOLVER"] == taught["SOLVER"] and alone["INPUT"] == taught["INPUT"]


def test_failed_training_is_told_and_resumed(
    demo: Demo, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    fail = stage.trainings / "student_baseline" / "fail"
    fail.touch()
    status, _ = stage.run(demo)
    assert status == 1
    log = stage.output / "student_alone_seed1" / "study.log"
    error = capsys.readouterr().err
    assert f"exit status 1: ValueError: the reason; see {log}" in error
    fail.unlink()
    status, started = stage.run(demo)
    assert (status, [entry[:2] for entry in started]) == (
        0,
        [("configs/Demo/student_baseline.yaml", True)],
    )


def test_other_settings_scenes_or_a_lost_folder_train_again(demo: Demo, stage: Stage) -> None:
    stage.run(demo)
    _, started = stage.run(demo, "SOLVER.MAX_ITER", "50")
    assert [options["SOLVER.MAX_ITER"] for *_, options in started] == ["50"] * 3
    shutil.rmtree(stage.output / "student_alone_seed1")
    _, started = stage.run(demo, "SOLVER.MAX_ITER", "50")
    assert [config for config, *_ in started] == ["configs/Demo/student_baseline.yaml"]
    other = replace(demo, prepare=partial(build_dataset, params=SceneParams(4, 3)))
    assert len(stage.run(other, "SOLVER.MAX_ITER", "50")[1]) == 3


def test_fresh_trains_again_and_leaves_other_files_alone(demo: Demo, stage: Stage) -> None:
    stage.run(demo)
    (stage.output / "mine.txt").touch()
    _, started = stage.run(demo, "--fresh")
    assert [resumed for _, resumed, _ in started] == [False] * 3
    assert (stage.output / "mine.txt").exists()


@pytest.mark.parametrize("name", ["data", "student_with_FAM_seed1"])
def test_folders_of_others_are_left_alone(
    demo: Demo, stage: Stage, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = stage.output / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert stage.run(demo, "--fresh")[0] == 1
    assert "move it" in capsys.readouterr().err
    assert mine.exists()


def test_second_demo_in_a_folder_is_told(
    demo: Demo, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(stage.output):
        assert stage.run(demo) == (1, [])
    expected = "another demo is running there; give --output another folder"
    assert capsys.readouterr().err.splitlines() == [expected]


@pytest.mark.parametrize("module", ["tools.demo", "tools.demo.classification"])
def test_command_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, status in (["--help"], 0), (["SOLVER.MAX_ITER"], 2):
        monkeypatch.setattr(sys, "argv", [module, *words])
        monkeypatch.delitem(sys.modules, module, raising=False)  # as in a new process
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
        assert ended.value.code == status
    out, err = capsys.readouterr()
    assert f"examples:\n  python -m {module}\n" in out and len(out.splitlines()) <= 40
    assert "KEY VALUE: got 1 words, expected pairs: ['SOLVER.MAX_ITER']" in err


def test_report(demo: Demo, stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run(replace(demo, draw=detection.draw_report))
    printed = capsys.readouterr().out
    table, picture = stage.output / "report.md", stage.output / "report.png"
    for text in (printed, table.read_text()):
        rows = [line for line in text.splitlines() if line.startswith("|")][2:]
        assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows] == [
            [name, "0.12 M", *[f"{ap:.1f}"] * 5, "-", "00:50"]
            for name, ap in zip(
                ["teacher", "student alone", "student with FAM"], AP.values(), strict=True
            )
        ]
    assert "gained 6.0 AP, 20% of its distance to the teacher" in printed
    assert str(table) in printed and str(picture) in printed
    image = cv2.imread(str(picture))
    assert image.shape[1] > 1000 and len(np.unique(image)) > 50


def test_match_of_detections() -> None:
    truth = [Digit((20 * i, 0, 10, 10), label) for i, label in enumerate([1, 2, 1])]
    found = [
        Digit((1, 0, 10, 10), 1),  # right
        Digit((0, 0, 10, 10), 1),  # a repeat
        Digit((20, 0, 10, 10), 3),  # a wrong digit
        Digit((40, 0, 10, 4), 1),  # 0.4 of overlap
        Digit((40, 0, 10, 9), 1),  # right
    ]
    assert match(found, truth) == [0, None, None, None, 2]
    assert match([], truth) == []
