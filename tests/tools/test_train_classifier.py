"""The command line of tools/train_classifier.py, in one process and in a group of two."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tools.in_process import run_tool

ROOT = Path(__file__).parent.parent.parent
TOOL = ROOT / "tools" / "train_classifier.py"
CONFIG = """
VERSION: 2
MODEL:
  DEVICE: cpu
  NUM_CLASSES: 10
  STUDENT: {NAME: resnet8}
  TEACHER: {NAME: resnet14}
  DISTILLER: {NAME: KnowledgeReviewDistiller}
DATASETS: {NAME: fake}
SOLVER: {IMS_PER_BATCH: 8, EPOCHS: 0, MAX_ITER: 3, STEPS: (), CHECKPOINT_PERIOD: 2}
SEED: 1
"""


def run(*words: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    if processes == 1:
        return run_tool("train_classifier", *map(str, words))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(TOOL), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_trains_resumes_and_evaluates(config: Path, tmp_path: Path, processes: int) -> None:
    output = tmp_path / "run"
    options = ["--config-file", config, "OUTPUT_DIR", output]
    done = run(*options, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    accuracy = next(line["accuracy/top1"] for line in trained if "accuracy/top1" in line)
    assert f"copypaste: {accuracy:.4f}" in done.stdout
    resumed = run("--resume", *options, "SOLVER.MAX_ITER", 4, processes=processes)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "Starting training from iteration 3" in resumed.stdout
    weights = output / "model_best.pth"
    evaluated = run("--eval-only", *options, "MODEL.WEIGHTS", weights, processes=processes)
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    lines = (output / "metrics.json").read_text().splitlines()
    best = max(json.loads(line).get("accuracy/top1", 0.0) for line in lines)
    assert f"copypaste: {best:.4f}" in evaluated.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DATASETS.NAME", "mnist"], "DATASETS.NAME: got 'mnist', expected one of"),
        (["MODEL.STUDENT.NAME", "resnet9"], "MODEL.STUDENT: name: got 'resnet9'"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED: got True on the CPU"),
    ],
)
def test_wrong_input_ends_in_one_line(
    config: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    assert_one_line(run("--config-file", config, "OUTPUT_DIR", tmp_path, *words), message)


def assert_one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("everywhere", [False, True])
def test_torchrun_that_gets_a_signal_saves_and_leaves(
    config: Path, tmp_path: Path, everywhere: bool
) -> None:
    """Torchrun alone gets it, or each of its processes as well, as from SLURM."""
    output = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(TOOL), "--config-file", str(config)]
    command += ["OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "100000", "TEST.EVAL_PERIOD", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    agent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    while not (output / "last_checkpoint").exists() and agent.poll() is None:
        time.sleep(0.1)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    for process in [*(map(int, children) if everywhere else []), agent.pid]:
        os.kill(process, signal.SIGTERM)
    printed, _ = agent.communicate()
    assert agent.returncode != 0
    assert "SIGTERM: stopped after iteration" in (output / "log.txt").read_text()
    (saved,) = re.findall(
        r"SIGTERM: stopped after iteration \d+ of 100000, saved in (\S+);", printed
    )
    assert (output / "last_checkpoint").read_text() == Path(saved).name
