"""Hooks for what is logged: ``metrics.json`` whole to its last line, and few values in memory."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fvcore.common.history_buffer import HistoryBuffer

from fam_det.files.metrics_file import LOG_PERIOD, end_last_line

from detectron2.engine import HookBase, hooks

logger = logging.getLogger(__name__)
EVAL_SECONDS = "eval_seconds"  # the metric of the iterations that were evaluated
HISTORY = 1000  # values of each metric, for the median that the remaining time is told by


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's hook, which also writes after each evaluation.

    Otherwise a run that is killed in the iterations after it would have no trace of it.
    """

    def __init__(self, writers: list[Any], folder: str, period: int = LOG_PERIOD) -> None:
        super().__init__(writers, period)
        self.folder = folder
        self.evaluated: int | None = None  # iteration of the last evaluation that is written

    def before_train(self) -> None:
        """Ends the half line that a killed run may have left."""
        end_last_line(Path(self.folder) / "metrics.json")

    def after_step(self) -> None:
        """Writes, every ``period`` iterations and after an evaluation."""
        _, evaluated = self.trainer.storage.latest().get(EVAL_SECONDS, (0.0, None))
        done = self.trainer.iter + 1
        is_due = done % self._period == 0 or done == self.trainer.max_iter
        if is_due or evaluated != self.evaluated:
            self.evaluated = evaluated
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


class UnweightedLoss(HookBase):
    """Puts ``loss_distill`` without its weight beside it: it is comparable with other losses."""

    def after_step(self) -> None:
        """Divides numbers that are read already: to read a loss is to wait for the GPU."""
        latest = self.trainer.storage.latest()
        loss, _ = latest.get("loss_distill", (0.0, 0))
        weight, _ = latest.get("distiller/loss_weight", (0.0, 0))
        if weight > 0:
            self.trainer.storage.put_scalar("distiller/loss_unweighted", loss / weight)


class TeacherShare(HookBase):
    """Says once, and after a resume again, how much of a step the teacher takes."""

    def before_train(self) -> None:
        """Waits for the first values that are written."""
        self.due = self.trainer.start_iter + LOG_PERIOD

    def after_step(self) -> None:
        """Logs the share of the median step."""
        histories = self.trainer.storage.histories()
        if self.trainer.iter + 1 == self.due and "distiller/teacher_time" in histories:
            teacher, step = (
                histories[name].median(LOG_PERIOD) for name in ("distiller/teacher_time", "time")
            )
            logger.info(
                "The teacher takes %.3f s of a step of %.3f s (%.0f %%).",
                *(teacher, step, 100 * teacher / step),
            )
