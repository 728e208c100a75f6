"""tools/distill.py from the command line to an evaluated checkpoint."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tools.in_process import run_tool

TEACHER = "configs/BloodCells/teacher_R_18.yaml"
ARGUMENTS = [
    *("--teacher", TEACHER, "--teacher-weights", "none"),
    *("--student", "resnet18", "--student-weights", "none", "--device", "cpu", "--batch", "2"),
]
SMALL = [
    *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("SOLVER.BASE_LR", "0.0001", "MODEL.TEACHER.OPTS", "['MODEL.RESNETS.NORM', 'FrozenBN']"),
]


@pytest.fixture(autouse=True)
def _measured_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cost.SECONDS", "meter.SECONDS", "meter.PART_SECONDS"):
        monkeypatch.setattr(f"fam_det.recipes.{name}", 0.0)


@pytest.fixture
def data(cells: str) -> list[str]:
    (_, *train), (_, *val) = ast.literal_eval(cells)
    return ["--train", *train, "--val", *val]


def distill(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "tools/distill.py", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_distil_and_resume(data: list[str], tmp_path: Path) -> None:
    output = ["--output", str(tmp_path), "--inherit-heads"]
    first = distill(*ARGUMENTS, *data, *output, "--schedule", "2", *SMALL)
    assert first.returncode == 0, first.stderr[-2000:]
    config = (tmp_path / "distill.yaml").read_text()
    command = f"python tools/train_net.py --config-file {tmp_path}/distill.yaml\n"
    assert first.stdout.startswith(f"{config}\nimages: 64 x 96 (median height x width), resized")
    start = first.stdout.partition(f"\n\n{command}")[0].splitlines()
    assert (
        start[-2]
        == "2 iterations of 2 images: 0.7 passes over 6 images; evaluations of 6 images: 1"
    )
    assert " s an iteration (measured now, over 1, on the CPU, " in start[-1]
    assert "teacher and data have 3 classes: the student starts with the teacher's" in config
    assert "copypaste: Task: bbox" in first.stdout
    end, _, table = first.stdout.rpartition("best  ")
    assert "6 of 6 images are also images to train on" in end[-1000:]
    assert f"{tmp_path}/model_final.pth" in table
    assert "the teacher has random weights" in table
    assert f"tools/deploy.py {tmp_path}" in table

    files = {f.name for f in tmp_path.iterdir() if not f.name.startswith("events.out.tfevents")}
    assert files == {
        "config.yaml",
        "data.json",
        "distill.yaml",
        "inference",
        "last_checkpoint",
        "log.txt",
        "metrics.json",
        "model_best.pth",
        "model_final.pth",
    }
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {"loss_distill", "bbox/AP", "distiller/loss_p6"} <= set().union(*lines)

    again = run_tool("distill", *ARGUMENTS, *data, *output, "--schedule", "3", *SMALL)
    assert again.stderr.strip().splitlines()[-1] == (
        f"--output: {tmp_path} holds a run; add --resume to resume it, or give another"
    )
    resume = ["--schedule", "3", "--resume", "--compare", "--dry-run", *SMALL]
    again = run_tool("distill", *ARGUMENTS, *data, *output, *resume)
    assert again.returncode == 0, again.stderr[-2000:]
    commands = again.stdout.split("\n\n")[-3:]
    for command, options in zip(
        commands,
        (
            "",
            f" MODEL.META_ARCHITECTURE GeneralizedRCNN OUTPUT_DIR {tmp_path}/alone",
            " MODEL.DISTILLER.LOSS_WEIGHT 0.0 MODEL.DISTILLER.HEAD_WEIGHT 0.0"
            f" OUTPUT_DIR {tmp_path}/heads",
        ),
        strict=True,
    ):
        assert command.strip().endswith(f"/distill.yaml --resume{options}")
    assert f"{tmp_path}/distill.yaml: SOLVER.MAX_ITER: was 2, is 3" in again.stderr
    other = [*ARGUMENTS[:4], "--student", "mobilenet_v2", *ARGUMENTS[6:]]
    again = run_tool("distill", *other, *data, *output, *resume[:3], *SMALL)
    assert (
        again.stderr.strip()
        .splitlines()[-1]
        .startswith(
            f"--resume: {tmp_path}/distill.yaml has MODEL.BACKBONE.NAME build_resnet_fpn_backbone"
        )
    )
    assert (tmp_path / "distill.yaml").read_text() == config  # neither call has replaced it


def test_a_teacher_is_trained_and_then_distilled(data: list[str], tmp_path: Path) -> None:
    output = str(tmp_path / "teacher")
    words = ["--train-teacher", "resnet18", "--from-scratch", *data, "--output", output]
    small = [*SMALL[:8], "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"]
    words += ["--schedule", "2", "--batch", "2", "--device", "cpu", *small]
    done = run_tool("distill", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    train, val = (" ".join(data[i : i + 3]) for i in (0, 3))
    config = f"{output}/config.yaml"
    assert done.stdout.endswith(
        f"  python tools/distill.py --teacher {config} \\\n    --speedup 5 {train} {val}\n"
    )
    assert "\nteacher " in done.stdout
    words = ["--teacher", config, "--student", "resnet18", "--from-scratch", *data, "--dry-run"]
    then = run_tool("distill", *words, "--batch", "2", "--output", str(tmp_path / "run"), *small)
    assert "teacher and data have the same 3 classes" in then.stdout, then.stderr[-2000:]
    assert f"WEIGHTS: {output}/model_final.pth  # found beside its config" in then.stdout


def test_the_student_alone_has_the_anchors_of_its_teacher(data: list[str], tmp_path: Path) -> None:
    words = [*ARGUMENTS, *data, "--output", str(tmp_path / "run"), "--dry-run", "--compare"]
    result = run_tool("distill", *words, "MODEL.TEACHER.INPUT_SCALE", "2.0")
    assert "SIZES: [[8.0], [16.0], [32.0], [64.0], [128.0]]" in result.stdout
    sizes = "MODEL.ANCHOR_GENERATOR.SIZES '[[16.0], [32.0], [64.0], [128.0], [256.0]]'"
    assert sizes in result.stdout.splitlines()[-1]


def test_a_student_of_images_without_labels(data: list[str], tmp_path: Path) -> None:
    images = ["--images", data[2]]
    teacher = ["--teacher", TEACHER, "--teacher-weights", "none", "--device", "cpu"]
    sure = ["MODEL.TEACHER.OPTS", "['TEST.DETECTIONS_PER_IMAGE', 5]"]
    output = ["--output", str(tmp_path / "labels")]
    scores = ["--scores", "0.05", "0.2"]  # of a teacher with random weights
    labelled = run_tool("label", *teacher, *images, *output, *scores, *sure)
    assert labelled.returncode == 0, labelled.stderr[-2000:]
    assert " in 6 images; image folder: " in labelled.stdout
    labels = ["--train", str(tmp_path / "labels" / "labels.json"), data[2]]
    words = [*ARGUMENTS, "--val", *labels[1:], "--schedule", "2", *SMALL]
    done = run_tool("distill", *words, *labels, "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "IGNORE_CROWD: true  # uncertain detections of the teacher" in done.stdout
    table = done.stdout.rpartition("agreement with teacher")
    assert table[1] and "AP50" not in table[2]
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    assert "bbox/agreement50" in metrics and "bbox/AP" not in metrics


def test_both_kinds_of_images_have_their_share(data: list[str], tmp_path: Path) -> None:
    words = [*ARGUMENTS, *data, "--images", data[2], "--features-only", "--dry-run"]
    done = run_tool("distill", *words, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    config = yaml.safe_load((tmp_path / "distill.yaml").read_text())["DATASETS"]
    assert config["TRAIN"] == ["distill_train", "distill_unlabelled"]
    assert config["TRAIN_SHARES"] == [0.5, 0.5] and config["UNLABELLED"] == ["distill_unlabelled"]


def test_dry_run_writes_the_config_alone(data: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = [*ARGUMENTS, *data, "--output", str(output), "--dry-run", "SEED", "7"]
    result = run_tool("distill", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [file.name for file in output.iterdir()] == ["distill.yaml"]
    assert "SEED: 7  # given" in result.stdout
    assert "the names of the teacher's 3 classes are not known" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "resnet8", "--teacher-weights", "gone"], "--student: got 'resnet8'"),
        (["--teacher-weights", "gone"], "--teacher-weights: gone does not exist"),
        (["--batch", "0"], "--batch: got 0, expected 1 or more"),
        (["--classes", "a"], "--classes: is of --images; add one or more folders"),
        (["--batch", "3", "--num-gpus", "2"], "--batch: got 3, expected a multiple of --num-gpus"),
        (["--speedup", "0"], "--speedup: got 0.0, expected a number above 0"),
        (["--for", "onnx"], "--for: says what --speedup, --latency or --ladder measure; add one"),
        (["--student", ""], "--student: missing; give one, or --speedup N or --latency MS"),
        (["--schedule", "long"], "--schedule: got 'long', expected 1x, a multiple such as 0.1x"),
    ],
)
def test_wrong_argument_is_one_line(
    arguments: list[str], message: str, data: list[str], tmp_path: Path
) -> None:
    words = [*ARGUMENTS, *data, "--output", str(tmp_path / "run"), *arguments]
    result = run_tool("distill", *words)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare"], "--compare: is of a student; leave it out with --train-teacher"),
        (["--no-inherit-heads"], "--inherit-heads: is of a student; leave it out with"),
        (["--from-scratch", "--teacher-weights", "a.pth"], "--from-scratch: has no --teacher-w"),
    ],
)
def test_flags_without_effect_on_a_teacher_are_refused(
    words: list[str], message: str, data: list[str]
) -> None:
    result = run_tool("distill", "--train-teacher", "resnet18", *data, *words)
    assert result.stderr.startswith(message)


def test_boxes_of_another_form_are_refused_unless_they_are_allowed(
    data: list[str], tmp_path: Path
) -> None:
    content = json.loads(Path(data[1]).read_text())
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x + 35, y + 10, x + 35 + width, y + 10 + height]
    corners = tmp_path / "corners.json"
    corners.write_text(json.dumps(content))
    words = [*ARGUMENTS, "--train", str(corners), data[2], *data[3:], "--dry-run"]
    words += ["--output", str(tmp_path / "run")]
    result = run_tool("distill", *words)
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"--train: {corners}: 6 of 6 boxes leave their image")
    assert "if read as corners" in line and "--allow-odd-boxes" in line
    result = run_tool("distill", *words, "--allow-odd-boxes")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "ALLOW_ODD_BOXES: true" in result.stdout
    config = ["--config-file", str(tmp_path / "run" / "distill.yaml")]
    result = run_tool("train_net", *config, "DATASETS.ALLOW_ODD_BOXES", "False")
    assert "if read as corners" in result.stderr.strip().splitlines()[-1]


def test_student_is_sized_and_stays(data: list[str], tmp_path: Path) -> None:
    words = [*ARGUMENTS, *data, "--output", str(tmp_path), "--dry-run", *SMALL]
    first = run_tool("distill", *words, "--speedup", "0.001")
    assert first.returncode == 0, first.stderr[-2000:]
    config = yaml.safe_load((tmp_path / "distill.yaml").read_text())
    assert config["MODEL"]["RESNETS"]["DEPTH"] == 18
    assert "# student chosen by --speedup 0.001: resnet18, FPN of 64, 250 pro" in first.stdout
    assert "random weights" in first.stdout
    again = run_tool("distill", *words, "--speedup", "0.001")
    beside = "beside the teacher"
    assert beside in first.stderr and beside not in again.stderr
    assert f"measured before, see {tmp_path}/ladder.json" in again.stdout
    start, end = "# student Faster", "images: "
    config_of = [x.stdout[x.stdout.index(start) : x.stdout.index(end)] for x in (first, again)]
    assert config_of[0] == config_of[1]
    other = run_tool("distill", *words, "--resume", "--latency", "9")
    assert other.stderr.strip().splitlines()[-1] == (
        f"--latency 9: does not resume {tmp_path}, whose student was chosen by --speedup 0.001; "
        "give the flags of its first call"
    )
    words = [*words, "--resume", "--speedup", "0.001", "--for", "onnx"]
    other = run_tool("distill", *words)
    assert f"{tmp_path}, whose runtime was pytorch; give" in other.stderr


def test_ladder_is_printed_and_nothing_written(data: list[str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    own = ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.RPN.CONV_DIMS", "[64]", *SMALL]
    own += ["INPUT.MAX_SIZE_TRAIN", "96", "INPUT.MAX_SIZE_TEST", "96"]
    words = [*ARGUMENTS, *data, "--output", str(output), *own]
    result = run_tool("distill", *words, "--ladder", "--for", "torchscript", "--speedup", "1e9")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["teacher", "resnet18", "resnet18"]
    assert {"backbone", "FPN", "RPN", "box", "TorchScript,"} <= set(lines[0].split())
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith(
            "--speedup 1e+09: no student is that fast, the fastest is resnet18, FPN of 16, "
        )
    )
    assert not output.exists()
