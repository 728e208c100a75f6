"""Hooks for metrics: when they are written, how many stay in memory, and derived ones."""

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
HISTORY = 1000  # values of each metric: Detectron2 estimates the remaining time from so many


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's hook, which also writes after each evaluation.

    Otherwise a run that is killed in the iterations after it would lose its metrics.
    """

    def __init__(self, writers: list[Any], folder: str, period: int = LOG_PERIOD) -> None:
        super().__init__(writers, period)
        self.folder = folder
        self.evaluated: int | None = None  # iteration of the last written evaluation

    def before_train(self) -> None:
        """Ends an incomplete line that a killed run may have left."""
        end_last_line(Path(self.folder) / "metrics.json")

    def after_step(self) -> None:
        """Writes every ``period`` iterations and after an evaluation."""
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
    """Keeps the last ``HISTORY`` values of each metric, where Detectron2 keeps a million.

    A million would take 5 KB per iteration, most of a GB in 180,000 iterations.
    """

    def before_train(self) -> None:
        """Bounds the length of histories that are made later."""
        self.trainer.storage._history.default_factory = partial(HistoryBuffer, HISTORY)


class UnweightedLoss(HookBase):
    """Logs ``loss_distill`` without its weight as well, to compare it with other losses."""

    def after_step(self) -> None:
        """Divides values that Detectron2 has read: reading the loss would wait for the GPU."""
        latest = self.trainer.storage.latest()
        loss, _ = latest.get("loss_distill", (0.0, 0))
        weight, _ = latest.get("distiller/loss_weight", (0.0, 0))
        if weight > 0:
            self.trainer.storage.put_scalar("distiller/loss_unweighted", loss / weight)


class TeacherShare(HookBase):
    """Logs once per run, and again after a resume, how much of a step the teacher takes."""

    def after_step(self) -> None:
        """Logs the share of the median step in the first ``LOG_PERIOD`` iterations."""
        histories = self.trainer.storage.histories()
        is_due = self.trainer.iter + 1 == self.trainer.start_iter + LOG_PERIOD
        if is_due and "distiller/teacher_time" in histories:
            teacher, step = (
                histories[name].median(LOG_PERIOD) for name in ("distiller/teacher_time", "time")
            )
            logger.info(
                "The teacher takes %.3f s of a step of %.3f s (%.0f %%).",
                *(teacher, step, 100 * teacher / step),
            )
