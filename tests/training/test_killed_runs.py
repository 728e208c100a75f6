"""Runs killed with SIGKILL at random moments and resumed end, bit for bit, as unbroken ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tools.conftest import cells  # noqa: F401

ROOT = Path(__file__).parent.parent.parent
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
TEST: {EVAL_PERIOD: 20}
SEED: 1
"""


def command(kind: str, cells: str, folder: Path) -> list[str]:  # noqa: F811
    if kind == "classification":
        file = folder / "config.yaml"
        file.write_text(CLASSIFIER)
        return [str(file)]
    options = {
        "DATASETS.COCO": cells,
        "DATALOADER.NUM_WORKERS": "0",
        "INPUT.MIN_SIZE_TRAIN": "(48, 64)",
        "INPUT.MIN_SIZE_TEST": "64",
        "MODEL.TEACHER.CONFIG": "configs/BloodCells/teacher_R_18.yaml",
        "MODEL.TEACHER.WEIGHTS": "",
        "MODEL.TEACHER.OPTS": "['MODEL.RESNETS.NORM', 'FrozenBN']",
        "MODEL.DISTILLER.MID_CHANNELS": "16",
        "SEED": "3",
        "SOLVER.BASE_LR": "0.001",
        "SOLVER.CHECKPOINT_PERIOD": "3",
        "SOLVER.CHECKPOINT_KEEP": "2",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.MAX_ITER": "30",
        "SOLVER.STEPS": "(25,)",
    }
    words = [word for pair in options.items() for word in pair]
    return ["configs/BloodCells/student_fam.yaml", *words]


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


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["detection", "classification"])
@pytest.mark.parametrize(
    ("processes", "kills"),
    [
        pytest.param(1, 3, id="1 process"),
        pytest.param(1, 20, id="1 process, 20 kills", marks=pytest.mark.slow),
        pytest.param(2, 20, id="2 processes, 20 kills", marks=pytest.mark.slow),
    ],
)
def test_killed_runs_end_as_unbroken_ones(
    kind: str,
    processes: int,
    kills: int,
    tmp_path: Path,
    cells: str,  # noqa: F811
) -> None:
    program = [sys.executable, "-m", "tests.training.killed_runs"]
    args = [kind, str(processes), str(kills), str(tmp_path), *command(kind, cells, tmp_path)]
    done = subprocess.run(
        [*program, *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report))
    killed = [life for life in report["lives"] if life["killed"]]
    assert len(killed) >= kills
    assert not any(life["hanging"] for life in killed)

    unbroken = dict(losses(tmp_path / "unbroken"))
    end = flat(torch.load(tmp_path / "unbroken" / "model_final.pth", weights_only=True))
    for run in range(report["runs"]):
        folder = tmp_path / f"broken{run}"
        for iteration, values in losses(folder):
            assert values == unbroken[iteration], iteration
        resumed = flat(torch.load(folder / "model_final.pth", weights_only=True))
        assert resumed.keys() == end.keys()
        assert [name for name in end if not same(end[name], resumed[name])] == []
        assert not list(folder.glob(".*.pth.*"))
