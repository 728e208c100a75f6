"""A quiet console: what a user acts on, and a line of progress; ``log.txt`` has everything."""

import copy
import logging
import re
import sys

from detectron2.utils.logger import setup_logger

OURS = ("fam_det", "classification")
# Lines of Detectron2 that stay, by logger and how they begin; all of ours do, and all warnings.
SHOWN = {
    "detectron2.data.build": "Distribution|Removed [1-9]",
    "detectron2.data.datasets.coco": "Loaded",
    "detectron2.data.datasets.lvis": "Loaded",
    "detectron2.engine.train_loop": "Starting training",
    "detectron2.engine.hooks": "Total training time",
    "detectron2.evaluation.evaluator": "Start inference|Inference done",
    "detectron2.evaluation.testing": "copypaste",
    "detectron2.utils.events": "",
    "fvcore.common.checkpoint": r"No checkpoint found|\[Checkpointer\] Loading from",
}
PAUSE = 30.0  # seconds between two lines of a long evaluation
MAX_LINES = 12  # of a table: COCO's classes take 30
# last_data_time is in Detectron2's lines after v0.6
LEVELS = re.compile(r"(distiller/|(last_)?data_time)\S*: \S+  ")
UNWEIGHTED = re.compile(r"distiller/loss_unweighted: (\S+)")


def set_up_loggers(folder: str, rank: int, *, verbose: bool) -> None:
    """Makes Detectron2's loggers and ours write to a folder's ``log.txt`` and to the console.

    Args:
        folder: of the run.
        rank: of this process; only the first writes to the console.
        verbose: whether the console has every line.
    """
    # As default_setup calls it, which then finds them and adds none.
    names = ("fvcore", *OURS)
    loggers = [setup_logger(folder, distributed_rank=rank)]
    loggers += [setup_logger(folder, distributed_rank=rank, name=name) for name in names]
    if not verbose:
        quiet(*loggers)


def quiet(*loggers: logging.Logger) -> None:
    """Keeps all but a few lines of these loggers from the console."""
    chosen = WorthReading()
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.addFilter(chosen)
            handler.setFormatter(ShortProgress(handler.formatter))


def logger_name(record: logging.LogRecord) -> str:
    """Returns the name, which a handler of Detectron2's before this one has abbreviated."""
    return re.sub(r"^d2\.", "detectron2.", record.name)


class WorthReading(logging.Filter):
    """Passes warnings, our lines and those of ``SHOWN``, on data only before the training."""

    def __init__(self) -> None:
        super().__init__()
        self.has_started = False
        self.evaluated_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a line is shown."""
        name, text = logger_name(record), record.getMessage()
        if record.exc_info and name == "detectron2.engine.train_loop":
            return False  # the process ends in that error, and says it last
        if record.levelno >= logging.WARNING or name.startswith(OURS):
            return True
        if name not in SHOWN or not re.match(SHOWN[name], text) or text.count("\n") > MAX_LINES:
            return False
        if name.startswith("detectron2.data"):
            return not self.has_started
        if name.endswith("train_loop"):
            self.has_started = True
        if text.startswith("Inference done") and record.created < self.evaluated_at + PAUSE:
            return False
        if name.endswith("evaluator"):
            self.evaluated_at = record.created
        return True


class ShortProgress(logging.Formatter):
    """Detectron2's line of progress without what ``metrics.json`` has of each level."""

    def __init__(self, whole: logging.Formatter | None) -> None:
        super().__init__()
        self.whole = whole or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Puts the unweighted loss beside the weighted one."""
        line = self.whole.format(copy.copy(record))  # Detectron2's changes the name
        if logger_name(record) != "detectron2.utils.events":
            return line
        unweighted = UNWEIGHTED.search(line)
        line = LEVELS.sub("", line)
        if unweighted is None:
            return line
        return re.sub(r"(loss_distill: \S+)", rf"\1 (unweighted: {unweighted[1]})", line)
