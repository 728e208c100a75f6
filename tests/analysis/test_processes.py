"""A command in the foreground: its exit code, and the signals that are for it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fam_det.analysis.processes import run_attached

# Ends as a training does that gets a signal; the pipe is opened when it can answer one.
ANSWERS = """
import signal, sys, pathlib
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: sys.exit(int(sys.argv[2]) or 128 + number))
pathlib.Path(sys.argv[1]).write_text("")
signal.pause()
"""
RUNS = "import sys; from fam_det.analysis.processes import run_attached as run; "
RUNS += "sys.exit(run(sys.argv[1:]))"


@pytest.mark.parametrize(("number", "answer"), [(signal.SIGTERM, 7), (signal.SIGINT, 0)])
def test_a_signal_is_passed_on(tmp_path: Path, number: int, answer: int) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    command = [sys.executable, "-c", RUNS, sys.executable, "-c", ANSWERS, str(ready), str(answer)]
    process = subprocess.Popen(command)
    ready.read_text()
    process.send_signal(number)
    assert process.wait() == (answer or 128 + number)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("", 0),
    ],
)
def test_the_exit_code_is_the_commands(code: str, expected: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run_attached([sys.executable, "-c", code]) == expected
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is of Linux")
def test_the_command_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = "import sys, signal; f = open(sys.argv[1], 'w'); print(1, file=f, flush=True); "
    code += "signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", RUNS, sys.executable, "-c", code, str(pipe)])
    with pipe.open() as file:
        file.readline()
        process.kill()
        process.wait()
        assert file.read() == ""  # comes back when the last writer is gone
