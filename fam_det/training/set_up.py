"""The start of a process of a training: Detectron2's, with what this project logs in it."""

import argparse
from typing import Any

from fam_det import detectron2_compat

detectron2_compat.apply()

from detectron2.engine import default_setup  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from detectron2.utils.logger import setup_logger  # noqa: E402

LOGGERS = ("fam_det", "classification")


def set_up(cfg: Any, args: argparse.Namespace, folder: str) -> None:
    """Seed the process and begin its log, of which Detectron2 would leave our lines out.

    Args:
        cfg: of Detectron2, or a LazyConfig.
        args: of the command line.
        folder: of the run, for ``log.txt``.
    """
    default_setup(cfg, args)
    for name in LOGGERS:
        setup_logger(folder, distributed_rank=comm.get_rank(), name=name)
