"""Reads ``metrics.json``, to which Detectron2 writes one JSON object per line in a training.

This module needs no PyTorch, so that tools which only read runs start fast.
"""

import json
from collections.abc import Iterator
from pathlib import Path

LOG_PERIOD = 20  # iterations between two lines, fixed in Detectron2


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a ``metrics.json`` by iteration; none if there is no such file.

    A resumed run has written some iterations twice: the later line counts. An incomplete line that
    a killed run has left is skipped.
    """
    by_iteration: dict[float, dict[str, float]] = {}
    for _, line in parse_metrics(path):
        if line is not None:
            by_iteration.setdefault(line["iteration"], {}).update(line)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def parse_metrics(path: Path) -> Iterator[tuple[int, dict[str, float] | None]]:
    """Yields the number and the content of each line, None for an incomplete line."""
    for number, text in enumerate(path.read_text().splitlines() if path.exists() else [], start=1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        else:
            if not isinstance(line, dict) or "iteration" not in line:
                raise ValueError(f"{path}: line {number}: expected an object with an 'iteration'")
        yield number, line


def end_last_line(path: Path) -> None:
    """Ends an incomplete last line of a file, so that the next one is on its own line."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def iterations_done(path: Path, max_iter: int, now: float) -> float:
    """Estimates the iterations done at a ``time.time`` from the last line and its pace.

    So a progress bar moves between two lines.
    """
    trained = [line for line in read_metrics(path) if "time" in line]
    if not trained:
        return 0.0
    since = max(now - path.stat().st_mtime, 0) / max(trained[-1]["time"], 1e-6)
    return min(trained[-1]["iteration"] + 1 + min(since, LOG_PERIOD), max_iter)


def training_seconds(metrics: list[dict[str, float]]) -> float:
    """Returns the time of all iterations: a line has the median time since the previous line."""
    seconds, done = 0.0, -1.0
    for line in metrics:
        if "time" in line:
            seconds += (line["iteration"] - done) * line["time"]
            done = line["iteration"]
    return seconds
