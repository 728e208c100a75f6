"""A tool run inside the test's own process: PyTorch and Detectron2 take seconds to import."""

import contextlib
import io
import logging
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from detectron2.utils.logger import setup_logger

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Puts the loggers back that a training sets up, or the tests after it would see no records."""
    loggers = [logging.getLogger(x) for x in ("detectron2", "fvcore", "fam_det", "classification")]
    before = [(x.handlers[:], x.propagate, x.level) for x in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            for handler in set(logger.handlers) - set(handlers):
                logger.removeHandler(handler)
            logger.propagate = propagate
            logger.setLevel(level)
        setup_logger.cache_clear()


def run_tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python tools/NAME.py WORDS``, and puts the loggers back as they were."""
    file = str(ROOT / "tools" / f"{name}.py")
    out, err, code = io.StringIO(), io.StringIO(), 0
    disabled = logging.root.manager.disable
    torch.manual_seed(0)  # as in a new process, random weights do not depend on what ran before
    with (
        logging_kept(),
        mock.patch.object(sys, "argv", [file, *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            runpy.run_path(file, run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):  # as the interpreter does at its end
                print(end.code, file=err)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            logging.disable(disabled)  # tools/deploy.py is quiet, the tests after it are not
    return subprocess.CompletedProcess([file, *words], code, out.getvalue(), err.getvalue())
