"""Saves the best checkpoint of a training, and stops early when it no longer improves."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fam_det.core.checks import check_positive
from fam_det.files.checkpointer import BEST, SafeCheckpointer
from fam_det.training.evaluation import at_iteration, read_evaluation

from detectron2.engine import hooks
from detectron2.utils import comm

# The first of these that an evaluation has chooses the best checkpoint.
MAIN_METRICS = (
    *("panoptic_seg/PQ", "segm/AP", "keypoints/AP", "bbox/AP", "sem_seg/mIoU"),
    *("segm/agreement", "keypoints/agreement", "bbox/agreement"),
)
logger = logging.getLogger(__name__)


def read_patience(value: int, eval_period: int, keys: tuple[str, str]) -> int:
    """Checks ``SOLVER.PATIENCE``, which needs evaluations during the training, and returns it."""
    check_positive(keys[0], value, zero=True)
    if value > 0 and eval_period <= 0:
        raise ValueError(f"{keys[0]}: got {value}, but no evaluations in between ({keys[1]} 0)")
    return value


class EarlyStop(BaseException):
    """Leaves the loop of a trainer whose ``max_iter`` was lowered.

    A BaseException, as Detectron2's train loop logs every Exception as an error.
    """


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's hook, which also ends a training after ``patience`` evaluations without a gain.

    The best value is in the checkpoints. But a checkpoint is written before its evaluation, so a
    resumed run reads that from ``metrics.json`` or repeats it. Register this hook after the
    evaluation and before the metrics, in every process: all of them end after the same iteration.

    Args:
        period: as ``TEST.EVAL_PERIOD``; the end is always evaluated.
        checkpointer: of the training.
        metrics: names in order of preference; higher is better.
        patience: as ``SOLVER.PATIENCE``; 0 for never.
    """

    def __init__(
        self, period: int, checkpointer: SafeCheckpointer, metrics: Sequence[str], patience: int
    ) -> None:
        super().__init__(period, checkpointer, metrics[0], file_prefix=BEST)
        self.folder = Path(checkpointer.save_dir)
        self.metrics, self.patience = metrics, patience
        self.evaluated = -1  # iteration of the last evaluation
        self.since_best = 0  # evaluations since the best one
        self.ended_early = False

    def before_train(self) -> None:
        """Compares the evaluation of the checkpoint that a run is resumed from."""
        start = self.trainer.start_iter
        if start == 0:
            return
        # Not empty if the Evaluation hook has just repeated the evaluation.
        repeated = {name: value for name, (value, _) in self.trainer.storage.latest().items()}
        results = repeated or read_evaluation(self.folder / "metrics.json", start) or {}
        # Detectron2 numbers iterations from 0, but the evaluation at the end MAX_ITER.
        evaluated = start - (start < self.trainer.max_iter)
        with at_iteration(self.trainer, evaluated):
            self._record_evaluation(results, evaluated)
        self._stop_early(start)

    def after_step(self) -> None:
        """Compares an evaluation with the best so far."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done < self.trainer.max_iter:
            self._best_checking()
            self._stop_early(done)

    def _best_checking(self) -> None:
        latest = self.trainer.storage.latest()
        name = self._find_metric(latest)
        if name is not None:
            value, iteration = latest[name]
            self._record_evaluation({name: value}, iteration)
        elif comm.is_main_process():
            logger.warning("no %s is written: no %s", self._file_prefix, " or ".join(self.metrics))

    def _find_metric(self, results: Mapping[str, Any]) -> str | None:
        return next((name for name in self.metrics if name in results), None)

    def _record_evaluation(self, results: Mapping[str, float], iteration: int) -> None:
        """Counts an evaluation, and saves the checkpoint if it is the best so far."""
        name = self._find_metric(results)
        if name is None or iteration <= self.evaluated:
            return
        self._val_metric, self.evaluated, value = name, iteration, results[name]
        if math.isnan(value) or (self.best_metric is not None and value <= self.best_metric):
            self.since_best += 1
            logger.info("%s: %.2f, not better than %s", name, value, self._describe_best())
            return
        self.since_best = 0
        self._update_best(value, iteration)
        self._checkpointer.save(self._file_prefix, iteration=iteration)

    def _stop_early(self, done: int) -> None:
        """Ends the training after ``done`` iterations if the first process is out of patience."""
        if self.patience == 0 or not comm.all_gather(self.since_best >= self.patience)[0]:
            return
        if done < self.trainer.max_iter:
            self.trainer.max_iter, self.ended_early = done, True

    def summary(self, max_iter: int) -> list[str]:
        """Returns lines for the end of the log; ``max_iter`` is the planned number."""
        if self.best_metric is None:
            return []
        file = self.folder / f"{self._file_prefix}.pth"
        best = [f"Best {self._val_metric}: {self._describe_best()}, in {file}"]
        if not self.ended_early:
            return best
        end = f"Ended after iteration {self.trainer.max_iter} of {max_iter}"
        return [f"{end}: no better {self._val_metric} in {self.since_best} evaluations", *best]

    def _describe_best(self) -> str:
        if self.best_metric is None:
            return "none"
        done = min(self.best_iter + 1, self.trainer.max_iter)
        return f"{self.best_metric:.2f} after iteration {done}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value, its iteration, and the evaluations since."""
        names = ("best_metric", "best_iter", "evaluated", "since_best")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from a checkpoint's state."""
        for name, value in state.items():
            setattr(self, name, value)
