"""Runs killed with SIGKILL at random moments and resumed end, bit for bit, as unbroken ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.files.metrics_file import read_metrics
from tests.modeling.small_detector import STUDENTS
from tests.training.killed_runs import kill_and_resume

CLASSIFIER = """
VERSION: 2
MODEL:
  DEVICE: cpu
  NUM_CLASSES: 10
  STUDENT: {NAME: resnet8}
  TEACHER: {NAME: resnet14}
  DISTILLER: {NAME: KnowledgeReviewDistiller}
DATASETS: {NAME: fake}
SOLVER: {IMS_PER_BATCH: 16, EPOCHS: 0, MAX_ITER: 60, STEPS: "(50,)", CHECKPOINT_PERIOD: 3}
TEST: {EVAL_PERIOD: 16}
SEED: 1
"""


def command(kind: str, cells: str, folder: Path, workers: int, iterations: int) -> list[str]:
    if kind == "classification":
        file = folder / "config.yaml"
        file.write_text(CLASSIFIER)
        return [str(file)]
    options = {
        "DATASETS.COCO": cells,
        "DATALOADER.NUM_WORKERS": str(workers),
        "INPUT.MIN_SIZE_TRAIN": "(48, 64)",
        "INPUT.MIN_SIZE_TEST": "64",
        "MODEL.TEACHER.CONFIG": "configs/BloodCells/teacher_R_18.yaml",
        "MODEL.TEACHER.WEIGHTS": "",
        "MODEL.TEACHER.OPTS": "['MODEL.RESNETS.NORM', 'FrozenBN', 'MODEL.FPN.OUT_CHANNELS', 24]",
        "MODEL.DISTILLER.MID_CHANNELS": "16",
        "MODEL.FPN.OUT_CHANNELS": "16",
        "MODEL.RETINANET.NUM_CONVS": "1",
        "SEED": "3",
        "SOLVER.BASE_LR": "0.001",
        "SOLVER.CHECKPOINT_PERIOD": "3",
        "SOLVER.CHECKPOINT_KEEP": "2",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.MAX_ITER": str(iterations),
        "SOLVER.STEPS": f"({iterations - 5},)",
        "TEST.EVAL_PERIOD": str(iterations // 2 - 1),
    }
    words = [word for pair in options.items() for word in pair]
    student = "RetinaNet" if kind == "retinanet" else "GeneralizedRCNN"
    words += ["MODEL.STUDENT.META_ARCHITECTURE", student, *STUDENTS[student]]
    return ["configs/BloodCells/student_distilled.yaml", *words]


def losses(folder: Path) -> list[tuple[int, dict[str, float]]]:
    lines = (folder / "losses.jsonl").read_text().splitlines()
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except ValueError:  # cut by a kill
            continue
    return [(number, values) for number, values in parsed]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: x for key in value for k, x in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    return {name: value}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return bool(first == second)


def results(folder: Path) -> dict[float, dict[str, float]]:
    """What each evaluation found."""
    return {
        line["iteration"]: {x: line[x] for x in line if x.startswith(("bbox/", "accuracy/"))}
        for line in read_metrics(folder / "metrics.json")
        if "eval_seconds" in line
    }


def slow(kind: str, processes: int, workers: int) -> Any:
    return pytest.param(kind, processes, 20, workers, 30, marks=pytest.mark.slow)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kind", "processes", "kills", "workers", "iterations"),
    [
        ("retinanet", 1, 2, 1, 10),
        slow("detection", 1, 0),
        slow("classification", 1, 0),
        slow("classification", 2, 0),
        slow("detection", 2, 1),
        slow("retinanet", 1, 2),
        slow("retinanet", 2, 0),
    ],
)
def test_killed_runs_end_as_unbroken_ones(
    kind: str,
    processes: int,
    kills: int,
    workers: int,
    iterations: int,
    tmp_path: Path,
    cells: str,
) -> None:
    words = command(kind, cells, tmp_path, workers, iterations)
    lives = kill_and_resume(kind, processes, kills, tmp_path, words[0], words[1:])
    print(json.dumps(lives))
    killed = [life for life in lives if life["killed"]]
    assert len(killed) >= kills
    assert not any(life["hanging"] for life in killed)
    for broken in tmp_path.glob("broken*"):
        assert_same(broken, tmp_path / "unbroken")


def assert_same(broken: Path, unbroken: Path) -> None:
    """Every loss, every evaluation and every tensor of the last checkpoint and of the best one."""
    expected = dict(losses(unbroken))
    for iteration, values in losses(broken):
        assert values == expected[iteration], iteration
    assert results(broken) == results(unbroken)
    names = {file.name for file in unbroken.glob("model_*.pth")}
    assert {file.name for file in broken.glob("model_*.pth")} == names
    for name in names:
        files = (torch.load(x / name, weights_only=True) for x in (broken, unbroken))
        resumed, end = map(flat, files)
        assert resumed.keys() == end.keys()
        assert [key for key in end if not same(end[key], resumed[key])] == [], name
    assert not list(broken.glob(".*.pth.*"))
