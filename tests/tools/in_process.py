"""A tool run inside the test's own process: PyTorch and Detectron2 take seconds to import."""

import contextlib
import io
import logging
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

from detectron2.utils.logger import setup_logger

ROOT = Path(__file__).parent.parent.parent


def run_tool(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python tools/NAME.py WORDS``, and puts the loggers back as they were."""
    file = str(ROOT / "tools" / f"{name}.py")
    out, err, code = io.StringIO(), io.StringIO(), 0
    disabled = logging.root.manager.disable
    loggers = [logging.getLogger(x) for x in ("fam_det", "classification", "detectron2", "fvcore")]
    before = [(logger.propagate, logger.handlers.copy()) for logger in loggers]
    with (
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
            for logger, (propagate, handlers) in zip(loggers, before, strict=True):
                logger.propagate, logger.handlers = propagate, handlers
            setup_logger.cache_clear()  # a later call adds its handlers again
    return subprocess.CompletedProcess([file, *words], code, out.getvalue(), err.getvalue())
