"""What is read from metrics.json, and what is shown of it."""

import io
import json
import os
from pathlib import Path

import pytest

from fam_det.training.metrics import iterations_done, read_metrics
from tools.demo import progress
from tools.demo.progress import Progress, evaluations


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """Stopped after iteration 59 in the middle of a line, resumed from 40."""
    lines = [{"iteration": 19, "time": 0.5}, {"iteration": 39, "time": 0.5, "bbox/AP": 10.0}]
    lines += [{"iteration": 59, "time": 0.5}]
    again = [{"iteration": 59, "time": 0.4}, {"iteration": 60, "bbox/AP": 20.0}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"iteration": 79, "ti\n'
    file = tmp_path / "metrics.json"
    file.write_text(text + "\n".join(map(json.dumps, again)) + "\n")
    return file


def test_resumed_run_counts_once_and_half_a_line_not_at_all(metrics: Path) -> None:
    lines = read_metrics(metrics)
    assert [line["iteration"] for line in lines] == [19, 39, 59, 60]
    assert [line.get("time") for line in lines] == [0.5, 0.5, 0.4, None]
    assert [line["bbox/AP"] for line in evaluations(lines, "bbox/AP")] == [10.0, 20.0]


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.json") == []
    assert iterations_done(tmp_path / "metrics.json", 100, now=0) == 0


@pytest.mark.parametrize(
    ("seconds", "done"),
    [(0, 60), (2, 65), (60, 80), (-5, 60)],  # 0.4 s an iteration, at most 20 ahead
)
def test_iterations_go_on_between_two_lines(metrics: Path, seconds: float, done: float) -> None:
    os.utime(metrics, (1000, 1000))
    assert iterations_done(metrics, 100, 1000 + seconds) == pytest.approx(done)
    assert iterations_done(metrics, 62, 1000 + seconds) <= 62


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    shown = Progress({"one": 30, "two": 10, "three": 40}, stream)
    shown.start("one", 1.0)  # done before: no pace can be told from it
    shown.finish("done before")
    shown.start("two")
    for clock[0] in (1.0, 2.0, 100.0):
        shown.update(clock[0] / 200)
    shown.finish("AP 12.0")
    assert stream.getvalue().splitlines() == [
        "[ 38%] one, ? left",
        "[ 38%] one, done before, ? left",
        "[ 38%] two, ? left",
        "[ 44%] two, 15:00 left",  # 5 of 50 units in 100 s, 45 to go
        "[ 50%] two, AP 12.0, 06:40 left",  # 10 of 50 units in 100 s, 40 to go
    ]


def test_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    shown = Progress({"one": 30, "two": 10}, stream)
    shown.start("one")
    shown.update(0.5, "AP 3.0")
    shown.close()
    last = stream.getvalue().rstrip("\n").split("\r")[-1]
    assert last.startswith(" 38%|") and "| one, AP 3.0 | 00:00 passed, 00:00 left" in last
