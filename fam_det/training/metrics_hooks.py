"""What a training writes beside its checkpoints: metrics, whole to the last line."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fvcore.common.history_buffer import HistoryBuffer

from fam_det.training.evaluation import SECONDS
from fam_det.training.metrics_file import end_last_line

from detectron2.engine import HookBase, hooks

HISTORY = 1000  # values of each metric, for the median that the remaining time is told by


class Writing(hooks.PeriodicWriter):
    """Detectron2's hook, which also writes after each evaluation.

    Otherwise a run that is killed in the iterations after it would have no trace of it.

    Args:
        writers: Detectron2's.
        folder: of the run.
        period: iterations between two lines.
    """

    def __init__(self, writers: list[Any], folder: str, period: int = 20) -> None:
        super().__init__(writers, period)
        self.folder = folder

    def before_train(self) -> None:
        """What a killed run has left of a line does not spoil the next one."""
        end_last_line(Path(self.folder) / "metrics.json")

    def after_step(self) -> None:
        """Write, every ``period`` iterations and after an evaluation."""
        _, evaluated = self.trainer.storage.latest().get(SECONDS, (0.0, None))
        done = self.trainer.iter + 1
        if (
            evaluated == self.trainer.iter
            or done % self._period == 0
            or done == self.trainer.max_iter
        ):
            for writer in self._writers:
                self._named(writer.write)

    def after_train(self) -> None:
        """Write what is left."""
        for writer in self._writers:
            self._named(writer.write)
            self._named(writer.close)

    def _named(self, write: Callable[[], None]) -> None:
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
        """Before there are any."""
        self.trainer.storage._history.default_factory = partial(HistoryBuffer, HISTORY)
