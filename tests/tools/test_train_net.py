"""tools/train_net.py from end to end: a few iterations on generated images, and a resume."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tools.in_process import run_tool

TEACHER = "configs/BloodCells/teacher_R_18.yaml"
STUDENT = "configs/BloodCells/student_distilled.yaml"


def train_net(*args: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    if processes == 1:
        return run_tool("train_net", *args)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "tools/train_net.py", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_train_resume_and_evaluate(cells: str, tmp_path: Path, processes: int) -> None:
    options = {
        "DATASETS.COCO": cells,
        "DATALOADER.NUM_WORKERS": "0",
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": "64",
        "MODEL.DISTILLER.MID_CHANNELS": "16",
        "MODEL.FPN.OUT_CHANNELS": "16",
        "MODEL.ROI_BOX_HEAD.FC_DIM": "32",
        "MODEL.TEACHER.CONFIG": TEACHER,
        "MODEL.TEACHER.OPTS": "['MODEL.RESNETS.NORM', 'FrozenBN', 'MODEL.FPN.OUT_CHANNELS', 16]",
        "OUTPUT_DIR": str(tmp_path),
        "SOLVER.BASE_LR": "0.0001",
        "SOLVER.CHECKPOINT_PERIOD": "2",
        "SOLVER.IMS_PER_BATCH": "2",
        "SOLVER.STEPS": "(1,)",
    }
    small = ["--config-file", STUDENT, *(word for pair in options.items() for word in pair)]
    first = train_net(*small, "SOLVER.MAX_ITER", "2", processes=processes)
    again = train_net("--resume", "--verbose", *small, "SOLVER.MAX_ITER", "4", processes=processes)
    check_run(
        tmp_path, [first, again], {"distiller/loss_p2", "distiller/gamma_global_p6"}, processes
    )
    shared = "DATASETS.TEST: bccd_val: 6 of 6 images are also images to train on"
    for run in (first, again):  # a warning about the data is repeated in the last lines
        assert shared in run.stdout.partition("Starting training")[0][-1000:]
    start = first.stdout.partition("Starting training")[0]
    assert len(start.splitlines()) < 20 and f"{tmp_path}/log.txt" in start
    log = (tmp_path / "log.txt").read_text()
    for text in ("Running with full config:", "]: Model:", "Average Recall"):
        assert text not in first.stdout and again.stdout.count(text) >= 1
        assert log.count(text.lstrip("]: ")) == 2 * again.stdout.count(text)
    # An evaluation needs neither the images of the training nor the teacher.
    train, val = ast.literal_eval(cells)
    coco = str([[train[0], "gone.json", "gone"], val])
    elsewhere = ["DATASETS.COCO", coco, "MODEL.TEACHER.CONFIG", "gone.yaml"]
    weights = ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    elsewhere += ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)"]
    only = train_net("--eval-only", *small, *weights, *elsewhere, processes=processes)
    assert only.returncode == 0, only.stderr[-2000:]
    assert only.stdout.count("copypaste: Task: bbox") == 2  # without and with augmentation
    assert "not used by the model" not in only.stdout


def check_run(
    folder: Path,
    ended: list[subprocess.CompletedProcess[str]],
    metrics: set[str],
    processes: int = 1,
) -> dict[str, float]:
    """Checks a run of two iterations that was resumed to four; returns the last metrics."""
    for one in ended:
        assert one.returncode == 0, one.stderr[-2000:]
    assert "Starting training from iteration 2" in ended[-1].stdout
    assert "copypaste: Task: bbox" in ended[-1].stdout
    is_yaml = "SOLVER" in (folder / "config.yaml").read_text()  # tools/report.py reads no other
    files = {f.name for f in folder.iterdir() if not f.name.startswith("events.out.tfevents")}
    assert files == {
        *(
            "config.yaml",
            *["data.json"] * is_yaml,
            "inference",
            "last_checkpoint",
            "log.txt",
            "metrics.json",
        ),
        *("model_0000001.pth", "model_0000003.pth", "model_best.pth", "model_final.pth"),
        *(f"log.txt.rank{rank}" for rank in range(1, processes)),
    }
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    trained = [line for line in lines if "total_loss" in line]
    assert {"loss_distill", "distiller/loss_unweighted", *metrics} <= set(trained[-1])
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75"} <= set(lines[-1])
    last: dict[str, float] = lines[-1]
    return last


def test_missing_config_file_is_one_line() -> None:
    result = run_tool("train_net")
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1].startswith("--config-file: missing")


def test_wrong_config_is_one_line() -> None:
    wrong = ("DATASETS.COCO", "[['bccd_train', 'no.json', 'no']]")
    result = run_tool("train_net", "--config-file", STUDENT, *wrong)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    line = result.stderr.strip().splitlines()[-1]
    assert "DATASETS.COCO: bccd_train: the image folder 'no' does not exist" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DATASETS.TEST", "('nope',)"], "DATASETS.TEST: got 'nope', which is not registered"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN: got none, expected a name or more"),
        (
            ["TEST.AUG.ENABLED", "True", "MODEL.META_ARCHITECTURE", "RetinaNet"],
            "a RetinaNet: set it",
        ),
    ],
)
def test_what_a_training_needs_at_its_end_is_looked_for_at_its_start(
    cells: str, tmp_path: Path, words: list[str], message: str
) -> None:
    options = ["DATASETS.COCO", cells, "OUTPUT_DIR", str(tmp_path), "MODEL.RETINANET.NUM_CLASSES"]
    result = run_tool("train_net", "--config-file", TEACHER, *options, "3", *words)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert message in result.stderr.strip().splitlines()[-1]


def test_strict_ends_at_a_box_out_of_its_image(cells: str, tmp_path: Path) -> None:
    (_, annotations, images), _ = ast.literal_eval(cells)
    content = json.loads(Path(annotations).read_text())
    content["annotations"][0]["bbox"] = [90, 60, 28, 24]
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps(content))
    entries = str([[name, str(odd), images] for name in ("bccd_train", "bccd_val")])
    words = ("--config-file", TEACHER, "--strict", "DATASETS.COCO", entries)
    result = run_tool("train_net", *words)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert (
        "odd.json: 1 of 6 objects have a box that is empty or reaches out of its image"
        in (result.stderr.strip().splitlines()[-1])
    )


def test_an_evaluation_with_another_models_checkpoint_is_refused(
    cells: str, tmp_path: Path
) -> None:
    torch.save({"model": {"other": torch.ones(3)}}, tmp_path / "other.pth")
    options = ["DATASETS.COCO", cells, "OUTPUT_DIR", str(tmp_path / "run")]
    weights = ["MODEL.WEIGHTS", str(tmp_path / "other.pth")]
    result = train_net("--config-file", TEACHER, "--eval-only", *options, *weights)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "other.pth: has none of the model's weights" in result.stderr.strip().splitlines()[-1]
