"""A small study with the stand-in for a training tool."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fam_det.analysis import jobs
from tests.analysis.run_fake_study import tool

SCRIPT = Path(__file__).with_name("run_fake_study.py")
STUDY = """
tool: train_net
metric: bbox/AP
seeds: [2, 3]
choice_seed: 1
baseline: alone
overrides: {DATASETS.COCO: "{DATA}/images"}
runs:
  - {name: teacher, config: teacher.yaml, seeds: [1]}
  - {name: alone, config: alone.yaml}
  - name: taught
    config: taught.yaml
    needs: teacher
    overrides: {MODEL.TEACHER.WEIGHTS: "{needs}/model_final.pth"}
    choose: {MODEL.DISTILLER.LOSS_WEIGHT: [1.0, 5.0, 15.0]}
"""
ALL = {
    "teacher_seed1",
    *(f"alone_seed{seed}" for seed in (2, 3)),
    *(f"taught_{weight}_seed1" for weight in ("1.0", "5.0", "15.0")),
    *(f"taught_seed{seed}" for seed in (2, 3)),
}
GIVEN = ["--set", "DATA=data/bccd", "--results", "docs/studies/small"]
BOUND_SECONDS = 60


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds, or fail."""
    end = time.monotonic() + BOUND_SECONDS
    while not condition():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)


@contextmanager
def as_called(folder: Path, args: list[str]) -> Iterator[None]:
    """The command line, working folder and signal handlers of a call, and ours again after it."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = Path.cwd(), sys.argv, [signal.getsignal(number) for number in numbers]
    os.chdir(folder)
    jobs._read_config.cache_clear()  # by relative path, which a process has one folder for
    sys.argv = [str(SCRIPT), "small.yaml", *args]
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv = before[1]
        for number, handler in zip(numbers, before[2], strict=True):
            signal.signal(number, handler)


@dataclass
class Studio:
    """A folder with a study, and what its runs leave there."""

    folder: Path

    @property
    def outputs(self) -> Path:
        return self.folder / "output" / "studies" / "small"

    @property
    def results(self) -> Path:
        return self.folder / "docs" / "studies" / "small"

    def start(self, *args: str, ignoring: Sequence[int] = ()) -> subprocess.Popen[str]:
        """A call of the tool that goes on by itself, its signals as in a terminal but for these."""

        def as_in_a_terminal() -> None:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN if number in ignoring else signal.SIG_DFL)

        command = [sys.executable, str(SCRIPT), "small.yaml", *GIVEN, *args]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=as_in_a_terminal,
            env=os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])},
        )

    def call(self, *args: str) -> tuple[int, str, str]:
        """Exit status, standard output and error of a call in this process, which is quicker."""
        out, err = io.StringIO(), io.StringIO()
        called = as_called(self.folder, [*GIVEN, *args])
        with redirect_stdout(out), redirect_stderr(err), called:
            try:
                status: object = tool.main()
            except SystemExit as end:
                status = end.code
                if isinstance(status, str):
                    err.write(f"{status}\n")
                    status = 1
        assert isinstance(status, int)
        return status, out.getvalue(), err.getvalue()

    def control(self, name: str, *folders: str) -> None:
        """Tell the stand-in which trainings are to `fail` or to `hold`."""
        self.outputs.mkdir(parents=True, exist_ok=True)
        (self.outputs / name).write_text("\n".join(folders))

    def started(self) -> list[list[Any]]:
        """[folder, how, process, threads, cores, options] of each training, in order."""
        file = self.outputs / "started"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def names(self) -> list[str]:
        return [entry[0] for entry in self.started()]

    def table(self) -> str:
        return (self.results / "README.md").read_text()

    def files(self) -> set[str]:
        return {file.name for file in self.results.iterdir()}

    def lines(self) -> dict[str, str]:
        """Lines of the results by the job's name, the last one of each."""
        text = (self.results / "runs.jsonl").read_text()
        return {json.loads(line)["job"]: line for line in text.splitlines()}

    def kill_when_held(self, *held: str) -> None:
        """Start, ``kill -9`` once these trainings run at once, and wait for their end."""
        self.control("hold", *held)
        before = len(self.started())
        process = self.start("--jobs", "2")
        wait_for(lambda: {name for name, *_ in self.started()[before:]} >= set(held))
        files = [self.outputs / name / "last_checkpoint" for name in held]
        wait_for(lambda: all(x.exists() and x.stat().st_size for x in files))  # written, not begun
        process.send_signal(signal.SIGKILL)
        process.communicate()
        pids = [pid for name, _, pid, *_ in self.started()[before:] if name in held]
        wait_for(lambda: not any(is_alive(pid) for pid in pids))
        self.control("hold")


def make_studio(folder: Path) -> Studio:
    (folder / "small.yaml").write_text(STUDY)
    (folder / "data" / "bccd").mkdir(parents=True)
    for name in ("teacher", "alone", "taught"):
        (folder / f"{name}.yaml").write_text("MODEL: {DEVICE: cpu}\n")
    return Studio(folder)


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is not just waiting to be reaped."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
