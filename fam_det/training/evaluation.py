"""Evaluations of a training: none is lost to a kill, and what they found is written at once."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fam_det.data.loader import keep_child_signals
from fam_det.training.metrics_file import read_metrics

from detectron2.engine import hooks
from detectron2.utils import comm

SECONDS = "eval_seconds"  # the metric that says which iterations were evaluated


class Evaluation(hooks.EvalHook):
    """Detectron2's hook; a resumed run makes up for the evaluation that its end has cost.

    The checkpoint of an iteration is older than its evaluation.

    Args:
        period: iterations between two evaluations; 0 for one at the end.
        evaluate: gives the results.
        folder: of the run, with its ``metrics.json``.
    """

    def __init__(self, period: int, evaluate: Any, folder: str) -> None:
        super().__init__(period, evaluate)
        self.file = Path(folder) / "metrics.json"

    def before_train(self) -> None:
        """Evaluate the checkpoint that a run is resumed from, unless that was done."""
        start = self.trainer.start_iter
        due = self._period > 0 and start % self._period == 0 and 0 < start < self.trainer.max_iter
        if due and comm.all_gather(not self._was_evaluated(start - 1))[0]:
            with at_iteration(self.trainer, start - 1):
                self._do_eval()

    def after_train(self) -> None:
        """Evaluate at the end, whose number is the same for a run resumed after its last step."""
        trainer = self.trainer
        trainer.iter = trainer.storage.iter = min(trainer.iter, trainer.max_iter)
        super().after_train()

    def _was_evaluated(self, iteration: int) -> bool:
        return any(x["iteration"] == iteration and SECONDS in x for x in read_metrics(self.file))

    def _do_eval(self) -> None:
        start = time.perf_counter()
        with keep_child_signals():
            super()._do_eval()
        seconds = time.perf_counter() - start
        self.trainer.storage.put_scalar(SECONDS, seconds, smoothing_hint=False)


@contextmanager
def at_iteration(trainer: Any, iteration: int) -> Iterator[None]:
    """Within this context a trainer that has not begun is where its checkpoint left it."""
    start, trainer.iter, trainer.storage.iter = trainer.iter, iteration, iteration
    try:
        yield
    finally:
        trainer.iter = trainer.storage.iter = start
