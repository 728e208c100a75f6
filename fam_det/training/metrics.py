"""``metrics.json``, a JSON object a line: reads it, and writes it whole to the last line."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fvcore.common.history_buffer import HistoryBuffer

from fam_det.modeling.metrics import LOG_PERIOD

from detectron2.engine import HookBase, hooks

EVAL_SECONDS = "eval_seconds"  # the metric of the iterations that were evaluated
HISTORY = 1000  # values of each metric, for the median that the remaining time is told by


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a ``metrics.json``, by iteration; none if there is no such file.

    A run that was stopped and resumed has written some iterations twice, of which the later counts,
    and may have left half a line, which is skipped.
    """
    by_iteration: dict[float, dict[str, float]] = {}
    for _, line in parse_metrics(path):
        if line is not None:
            by_iteration.setdefault(line["iteration"], {}).update(line)
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def parse_metrics(path: Path) -> Iterator[tuple[int, dict[str, float] | None]]:
    """Yields the number and the content of each line, None for one that is half written."""
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
    """Ends the last line of a file, if it is there, so that the next line is whole."""
    if path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def iterations_done(path: Path, max_iter: int, now: float) -> float:
    """Returns the iterations done at a ``time.time``, counting on from the last line at its pace.

    Without that, a progress bar would stand still between two lines.
    """
    trained = [line for line in read_metrics(path) if "time" in line]
    if not trained:
        return 0.0
    since = max(now - path.stat().st_mtime, 0) / max(trained[-1]["time"], 1e-6)
    return min(trained[-1]["iteration"] + 1 + min(since, LOG_PERIOD), max_iter)


def training_seconds(metrics: list[dict[str, float]]) -> float:
    """Returns the time of all iterations: each line has the median one since the line before."""
    seconds, done = 0.0, -1.0
    for line in metrics:
        if "time" in line:
            seconds += (line["iteration"] - done) * line["time"]
            done = line["iteration"]
    return seconds


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's hook, which also writes after each evaluation.

    Otherwise a run that is killed in the iterations after it would have no trace of it.
    """

    def __init__(self, writers: list[Any], folder: str, period: int = LOG_PERIOD) -> None:
        super().__init__(writers, period)
        self.folder = folder

    def before_train(self) -> None:
        """Ends the half line that a killed run may have left."""
        end_last_line(Path(self.folder) / "metrics.json")

    def after_step(self) -> None:
        """Writes, every ``period`` iterations and after an evaluation."""
        _, evaluated = self.trainer.storage.latest().get(EVAL_SECONDS, (0.0, None))
        done = self.trainer.iter + 1
        is_due = done % self._period == 0 or done == self.trainer.max_iter
        if is_due or evaluated == self.trainer.iter:
            for writer in self._writers:
                self._name_errors(writer.write)

    def after_train(self) -> None:
        """Writes the rest."""
        for writer in self._writers:
            self._name_errors(writer.write)
            self._name_errors(writer.close)

    def _name_errors(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise OSError(
                f"{self.folder}: the metrics could not be written ({error.strerror or error}); "
                "is the disk full?"
            ) from error


class ShortHistory(HookBase):
    """Keeps the last values of each metric, where Detectron2 keeps a million.

    That would be some 5 KB an iteration, and most of a GB in 180,000.
    """

    def before_train(self) -> None:
        """Bounds the histories before there are any."""
        self.trainer.storage._history.default_factory = partial(HistoryBuffer, HISTORY)
