"""The command line of tools/report.py on a short training."""

import csv
import importlib.util
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from tests.tools.in_process import run_tool

ROOT = Path(__file__).parent.parent.parent
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
GONE = "NAME: resnet8\n    WEIGHTS: gone.pth"


Report = Callable[..., int]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Report:
    """The tool's ``main`` with these arguments: an interpreter takes seconds."""
    spec = importlib.util.spec_from_file_location("report", ROOT / "tools" / "report.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def run(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, args)])
        status: int = tool.main()
        return status

    return run


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


def test_reports_on_a_training(
    trained: Path, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(trained, trained, "--output", tmp_path / "report") == 0
    out, err = capsys.readouterr()
    assert "FAM-KD" in out and "stage1" in out
    assert "fam_kd/metrics.json: line 3 is not whole" in err
    pictures = {"curves_fake.png", *(f"{k}_fam_kd.png" for k in ("gammas", "filters", "maps"))}
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"report.md", "report.csv", *pictures}
    for name in pictures:
        picture = cv2.imread(str(tmp_path / "report" / name))
        assert picture is not None and picture.std() > 5
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"]({name})" in text for name in pictures)


def test_csv_alone_is_printed(
    trained: Path, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(trained, "--format", "csv", "--no-plots", "--output", tmp_path) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["method"], row["student"], row["runs"]) == ("FAM-KD", "resnet8", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.csv"}


def test_teacher_that_is_gone_costs_the_maps_alone(
    trained: Path, tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "moved"
    shutil.copytree(trained, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("NAME: resnet8\n    WEIGHTS: ''", GONE))
    assert report(run, "--output", tmp_path / "report") == 0
    assert f"{run}: no picture of its maps: MODEL.TEACHER: " in capsys.readouterr().err
    assert not (tmp_path / "report" / "maps_moved.png").exists()


def test_missing_run_ends_in_one_line(
    tmp_path: Path, report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(tmp_path / "nowhere") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "nowhere/config.yaml: not there; expected an output folder of tools/train_net.py" in line
