"""Which stages run, with which command; what is kept of a demo that was stopped."""

import ast
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tools.demo.fake_training import FakeTraining
from tools.demo import detection, pipeline
from tools.demo.detection import DetectionDemo as Demo
from tools.demo.pipeline import StageFailed, run_demo
from tools.demo.progress import Progress

NAMES = ["teacher", "student_baseline", "student_fam"]


def run(demo: Demo, training: FakeTraining) -> FakeTraining:
    with Path(os.devnull).open("w") as nowhere:
        run_demo(demo, Progress(pipeline.progress_costs(demo), nowhere), training)
    return training


def options(command: list[str]) -> dict[str, str]:
    pairs = command[command.index("OUTPUT_DIR") :]
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_all_stages_run_in_order_with_their_config_and_resume(demo: Demo) -> None:
    training = run(demo, FakeTraining())
    assert training.stages == NAMES
    for command, stage in zip(training.commands, demo.stages, strict=True):
        assert command[:2] == [sys.executable, str(demo.root / "tools" / "train_net.py")]
        config = str(demo.root / "configs" / "Demo" / f"{stage.name}.yaml")
        assert command[2:5] == ["--config-file", config, "--resume"]
        train, val = ast.literal_eval(options(command)["DATASETS.COCO"])
        assert [train[0], val[0]] == ["digits_train", "digits_val"]
        assert all(Path(path).exists() for path in (*train[1:], *val[1:]))


def test_students_differ_in_the_teacher_alone(demo: Demo) -> None:
    training = run(demo, FakeTraining())
    teacher, alone, fam = map(options, training.commands)
    assert "MODEL.TEACHER.CONFIG" not in teacher | alone
    folder = Path(teacher["OUTPUT_DIR"])
    assert fam.pop("MODEL.TEACHER.CONFIG") == str(folder / "config.yaml")
    assert fam.pop("MODEL.TEACHER.WEIGHTS") == str(folder / "model_final.pth")
    assert fam.pop("OUTPUT_DIR") != alone.pop("OUTPUT_DIR")
    assert fam == alone and fam["SEED"] == str(pipeline.SEED)


def test_students_have_one_schedule(demo: Demo) -> None:
    settings = [demo.settings(stage) for stage in (detection.BASELINE, detection.FAM)]
    assert settings[0]["SOLVER"] == settings[1]["SOLVER"]
    assert settings[0]["INPUT"] == settings[1]["INPUT"]


def test_finished_demo_runs_nothing_again(demo: Demo) -> None:
    run(demo, FakeTraining())
    assert run(demo, FakeTraining()).stages == []


def test_failed_stage_is_told_and_run_again_from_its_checkpoint(demo: Demo) -> None:
    with pytest.raises(
        StageFailed, match="student alone: .* status 1:\n.*\n  the reason\n"
    ) as told:
        run(demo, FakeTraining(fails="student_baseline"))
    folder = demo.folder(detection.BASELINE)
    assert str(folder / "stdout.txt") in str(told.value)
    again = run(demo, FakeTraining())
    assert again.stages == NAMES[1:]
    assert "--resume" in again.commands[0]
    assert (folder / "last_checkpoint").exists()


def test_training_without_its_last_checkpoint_has_failed(demo: Demo) -> None:
    with pytest.raises(StageFailed, match="status 0"):
        run(demo, FakeTraining(fails="teacher", status=0))


def test_other_settings_train_anew(demo: Demo) -> None:
    run(demo, FakeTraining())
    stale = demo.folder(detection.TEACHER) / "last_checkpoint"
    stale.touch()
    assert run(replace(demo, opts=["SOLVER.MAX_ITER", "50"]), FakeTraining()).stages == NAMES
    assert not stale.exists()


def test_other_teacher_config_trains_the_distilled_student_anew(demo: Demo, tmp_path: Path) -> None:
    """Not the one alone, which has nothing of the teacher's."""
    configs = tmp_path / "root" / "configs" / "Demo"
    configs.mkdir(parents=True)
    for name in NAMES:
        (configs / f"{name}.yaml").write_text("SOLVER: {MAX_ITER: 100}\n")
    demo = replace(demo, root=tmp_path / "root")
    run(demo, FakeTraining())
    (configs / "teacher.yaml").write_text("SOLVER: {MAX_ITER: 120}\n")
    assert run(demo, FakeTraining()).stages == ["teacher", "student_fam"]


def test_result_counts_the_detectors_parameters_and_one_checkpoint_stays(demo: Demo) -> None:
    run(demo, FakeTraining())
    folder = demo.folder(detection.FAM)
    assert [file.name for file in folder.glob("*.pth")] == ["model_final.pth"]
    state = pipeline.read_state(folder)
    assert state["result"] == {"AP": 36.0, "parameters": 12}


def test_fresh_removes_what_the_demo_made_and_nothing_else(demo: Demo) -> None:
    run(demo, FakeTraining())
    (demo.output / "mine.txt").touch()
    pipeline.clear(demo)
    assert [f.name for f in demo.output.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["data", "student_fam"])
def test_folders_of_others_are_left_alone(demo: Demo, name: str) -> None:
    mine = demo.output / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.touch()
    with pytest.raises(FileExistsError, match="is not the demo's: it has files but no"):
        run(demo, FakeTraining())
    with pytest.raises(FileExistsError):
        pipeline.clear(demo)
    assert mine.exists()


def test_subprocess_output_status_and_ticks(tmp_path: Path) -> None:
    log, ticks = tmp_path / "stdout.txt", []
    code = "import os, sys; print(os.getcwd()); sys.exit('reason')"
    command = [sys.executable, "-c", code]
    assert pipeline.run_subprocess(command, tmp_path, log, lambda: ticks.append(1)) == 1
    assert log.read_text().split() == [str(tmp_path), "reason"]
    assert ticks


def test_interrupt_ends_the_subprocess(tmp_path: Path) -> None:
    def interrupt() -> None:
        if (tmp_path / "log").read_text():
            raise KeyboardInterrupt

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_subprocess([sys.executable, "-c", code], tmp_path, tmp_path / "log", interrupt)
    assert not alive(int((tmp_path / "log").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="a death signal is Linux's")
def test_kill_of_the_demo_ends_the_subprocess(tmp_path: Path) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    parent = (
        "import sys; from pathlib import Path; from tools.demo.pipeline import run_subprocess;"
        f"run_subprocess([sys.executable, '-c', {child!r}], Path('.'), Path(sys.argv[1]), int)"
    )
    log = tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", parent, str(log)])
    wait_for(lambda: log.exists() and log.read_text().strip() != "")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(int(log.read_text())))


def wait_for(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
