"""The command line of tools/report.py on a run of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
VERSION: 2
MODEL:
  DEVICE: cpu
  NUM_CLASSES: 10
  STUDENT: {NAME: resnet8}
  TEACHER: {NAME: resnet14}
  DISTILLER: {NAME: KnowledgeReviewDistiller}
DATASETS: {NAME: fake}
SOLVER: {IMS_PER_BATCH: 8, EPOCHS: 0, MAX_ITER: 2, STEPS: (), CHECKPOINT_PERIOD: 2}
"""


def run(tool: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / tool), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_reports_on_a_training(tmp_path: Path) -> None:
    config, output = tmp_path / "config.yaml", tmp_path / "report"
    config.write_text(CONFIG)
    trained = run("train_classifier.py", "--config-file", config, "OUTPUT_DIR", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr[-3000:]
    done = run("report.py", tmp_path / "run", "--output", output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resnet14 → resnet8" in done.stdout
    assert {path.name for path in output.iterdir()} == {
        "report.md",
        "report.csv",
        "learning_curves.png",
        "run_gammas.png",
        "run_filters.png",
        "run_maps.png",
    }
    text = (output / "report.md").read_text()
    assert all(name in text for name in ("FAM-KD", "stage1", "pooled", "(run_maps.png)"))


def test_wrong_folder_ends_in_one_line(tmp_path: Path) -> None:
    done = run("report.py", tmp_path / "nowhere")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert "nowhere/config.yaml: not there" in line
    assert "Traceback" not in done.stderr
