"""The command line of tools/report.py on a short training."""

import csv
import io
import shutil
from pathlib import Path

import cv2
import pytest
import yaml

from tests.tools.in_process import run_tool

CONFIG = """
VERSION: 2
MODEL:
  DEVICE: cpu
  NUM_CLASSES: 10
  STUDENT: {NAME: resnet8}
  TEACHER: {NAME: resnet8}
  DISTILLER: {NAME: KnowledgeReviewDistiller}
DATASETS: {NAME: fake}
SOLVER: {IMS_PER_BATCH: 8, EPOCHS: 0, MAX_ITER: 20, STEPS: (), CHECKPOINT_PERIOD: 20}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    (folder / "config.yaml").write_text(CONFIG)
    options = ["--config-file", str(folder / "config.yaml"), "OUTPUT_DIR", str(folder / "fam_kd")]
    done = run_tool("train_classifier", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    with (folder / "fam_kd" / "metrics.json").open("a") as file:
        file.write('{"iteration": 21, "to')  # as a training that was killed
    return folder / "fam_kd"


def test_reports_on_a_training(trained: Path, tmp_path: Path) -> None:
    run = str(trained)
    done = run_tool("report", run, run, "--output", str(tmp_path / "report"))
    assert done.returncode == 0
    assert "FAM-KD" in done.stdout and "stage1" in done.stdout
    assert "fam_kd/metrics.json: line 3 is not whole" in done.stderr
    pictures = {"curves_fake.png", *(f"{k}_fam_kd.png" for k in ("gammas", "filters", "maps"))}
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "report.csv", *pictures}
    for name in pictures:
        picture = cv2.imread(str(tmp_path / "report" / name))
        assert picture is not None and picture.std() > 5
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"]({name})" in text for name in pictures)


def test_csv_alone_is_printed(trained: Path, tmp_path: Path) -> None:
    options = ["--format", "csv", "--no-plots", "--output", str(tmp_path)]
    (row,) = csv.DictReader(io.StringIO(run_tool("report", str(trained), *options).stdout))
    assert (row["method"], row["student"], row["runs"]) == ("FAM-KD", "resnet8", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.csv"}


def test_teacher_that_is_gone_costs_the_maps_alone(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["MODEL"]["TEACHER"]["WEIGHTS"] = "gone.pth"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    done = run_tool("report", str(run), "--output", str(tmp_path / "report"))
    assert done.returncode == 0
    assert f"{run}: no picture of its maps: MODEL.TEACHER: " in done.stderr
    assert not (tmp_path / "report" / "maps_moved.png").exists()


def test_a_folder_without_a_run_is_left_out(trained: Path, tmp_path: Path) -> None:
    folders = [str(trained), str(tmp_path), "--output", str(tmp_path / "report")]
    done = run_tool("report", *folders)
    assert done.returncode == 1
    assert f"left out: {tmp_path}/config.yaml: not there" in done.stderr
    assert (tmp_path / "report" / "report.md").is_file()


def test_missing_run_ends_in_one_line(tmp_path: Path) -> None:
    done = run_tool("report", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "nowhere/config.yaml: not there; expected an output folder of tools/train_net.py" in line
