"""A quiet console: warnings, results and progress; ``log.txt`` has every line."""

import copy
import logging
import re
import sys

from detectron2.utils.logger import setup_logger

OURS = ("fam_det", "classification")
# Lines of Detectron2 that are printed, by logger, and a pattern for their start.
PRINTED = {
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
# Metrics that the console omits; last_data_time is in Detectron2's lines after v0.6.
OMITTED = re.compile(r"(distiller/|(last_)?data_time)\S*: \S+  ")
UNWEIGHTED = re.compile(r"distiller/loss_unweighted: (\S+)")


def set_up_loggers(folder: str, rank: int, *, verbose: bool) -> None:
    """Makes Detectron2's loggers and ours write to a folder's ``log.txt`` and to the console.

    Args:
        folder: of the run.
        rank: of this process; only the first writes to the console.
        verbose: whether every line is printed.
    """
    # default_setup calls it with these arguments later, and finds the handlers made here.
    names = ("fvcore", *OURS)
    loggers = [setup_logger(folder, distributed_rank=rank)]
    loggers += [setup_logger(folder, distributed_rank=rank, name=name) for name in names]
    if not verbose:
        quiet(*loggers)


def quiet(*loggers: logging.Logger) -> None:
    """Prints only a few lines of these loggers."""
    console_filter = ConsoleFilter()
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.addFilter(console_filter)
            handler.setFormatter(ConsoleFormatter(handler.formatter))


def logger_name(record: logging.LogRecord) -> str:
    """Returns the logger's name; an earlier handler of Detectron2 may have abbreviated it."""
    return re.sub(r"^d2\.", "detectron2.", record.name)


class ConsoleFilter(logging.Filter):
    """Passes warnings, our lines and those of ``PRINTED``; of the data only before the training."""

    def __init__(self) -> None:
        super().__init__()
        self.has_started = False
        self.evaluated_at = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a line is printed."""
        name, text = logger_name(record), record.getMessage()
        if record.exc_info and name == "detectron2.engine.train_loop":
            return False  # the process exits with this error as its last line
        if record.levelno >= logging.WARNING or name.startswith(OURS):
            return True
        if name not in PRINTED or not re.match(PRINTED[name], text) or text.count("\n") > MAX_LINES:
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


class ConsoleFormatter(logging.Formatter):
    """Omits the metrics of each level from Detectron2's line of progress."""

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self.formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Formats a line, with the unweighted loss beside the weighted one."""
        line = self.formatter.format(copy.copy(record))  # Detectron2's abbreviates the name in it
        if logger_name(record) != "detectron2.utils.events":
            return line
        unweighted = UNWEIGHTED.search(line)
        line = OMITTED.sub("", line)
        if unweighted is None:
            return line
        return re.sub(r"(loss_distill: \S+)", rf"\1 (unweighted: {unweighted[1]})", line)
