"""Reading ``metrics.json``, which Detectron2 writes as it trains: a JSON object a line."""

import json
from pathlib import Path

LOG_PERIOD = 20  # iterations between two lines of metrics.json, fixed in Detectron2


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a ``metrics.json``, by iteration; none if there is no such file.

    A run that was stopped and resumed has written some iterations twice, of which the later counts,
    and may have left half a line, which is passed over.
    """
    by_iteration: dict[float, dict[str, float]] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        by_iteration.setdefault(line["iteration"], {}).update(line)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def end_last_line(path: Path) -> None:
    """Let a file of lines, if it is there, end in a whole one, so that the next line is whole."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def iterations_done(path: Path, max_iter: int, now: float) -> float:
    """Iterations done at a time (as of ``time.time``), counting on from the last line at its pace.

    Without that, a bar would stand still between two lines.
    """
    trained = [line for line in read_metrics(path) if "time" in line]
    if not trained:
        return 0.0
    since = max(now - path.stat().st_mtime, 0) / max(trained[-1]["time"], 1e-6)
    return min(trained[-1]["iteration"] + 1 + min(since, LOG_PERIOD), max_iter)


def training_seconds(metrics: list[dict[str, float]]) -> float:
    """Time of all iterations: each line has the median one since the line before."""
    seconds, done = 0.0, -1.0
    for line in metrics:
        if "time" in line:
            seconds += (line["iteration"] - done) * line["time"]
            done = line["iteration"]
    return seconds
