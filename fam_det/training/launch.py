"""Reads the command line of a training tool, starts its processes, and exits on errors."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fam_det.files import one_line
from fam_det.training.console import set_up_loggers

from detectron2.engine import default_argument_parser, default_setup
from detectron2.engine import launch as launch_processes
from detectron2.utils import comm

TIMEOUT = timedelta(minutes=30)  # Detectron2's
FAULTS = (AssertionError, FloatingPointError, OSError, ValueError, torch.OutOfMemoryError)
LESS_MEMORY = (
    "out of GPU memory; lower SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN or "
    "MODEL.DISTILLER.MID_CHANNELS, leave out a level (MODEL.DISTILLER.LEVELS) or set "
    "SOLVER.AMP.ENABLED True"
)
logger = logging.getLogger(__name__)
Main = Callable[[argparse.Namespace], Any]


def start_tool(main: Main, examples: str, also_strict: str = "") -> None:
    """Reads the command line of a training tool and starts one process per device.

    ``also_strict`` completes the help of ``--strict`` for detectors.
    """
    parser = default_argument_parser(epilog=examples)
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let the config file run code (!!python tags)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"end at the first image that cannot be read{also_strict}",
    )
    parser.add_argument("--verbose", action="store_true", help="print what log.txt has")
    if also_strict:  # a tool for detectors
        parser.add_argument(
            "--allow-odd-boxes",
            action="store_true",
            help="continue where boxes or image sizes seem wrong",
        )
    args = parser.parse_args()
    if not args.config_file:
        sys.exit("--config-file: missing; give one of the files in configs/ or your own")
    launch(main, args)


def launch(main: Main, args: argparse.Namespace) -> None:
    """Calls ``main(args)`` in every process of the run.

    Under ``torchrun``, which has started all processes, this is one of them. Otherwise one process
    per GPU is started here, as ``args.num_gpus``, ``num_machines``, ``machine_rank`` and
    ``dist_url`` say.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        launch_processes(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return
    join_torchrun()
    try:
        main(args)
        comm.synchronize()  # none exits while another still communicates with it
    finally:
        dist.destroy_process_group()


def join_torchrun() -> None:
    """Initialises Detectron2's process groups in a process that torchrun has started."""
    local_rank, local_size = (int(os.environ[f"LOCAL_{key}"]) for key in ("RANK", "WORLD_SIZE"))
    on_gpus = torch.cuda.device_count() >= local_size
    if on_gpus:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    # v0.6 does this inside its launch(). Every process must create every group.
    for machine in range(dist.get_world_size() // local_size):
        group = dist.new_group(list(range(machine * local_size, (machine + 1) * local_size)))
        if machine == int(os.environ["GROUP_RANK"]):
            comm._LOCAL_PROCESS_GROUP = group


def run(
    args: argparse.Namespace,
    load_config: Callable[[], Any],
    prepare: Callable[[Any, argparse.Namespace], Callable[[], dict[str, Any]]],
) -> dict[str, Any]:
    """Runs a training or, with ``--eval-only``, an evaluation in this process.

    Wrong input exits with one line that names the config file, an error of the training with one
    that names the last checkpoint. ``prepare`` builds and loads everything, and returns the
    function to run.
    """
    try:
        cfg = load_config()
        folder = cfg.train.output_dir if "train" in cfg else cfg.OUTPUT_DIR
        set_up_loggers(folder, comm.get_rank(), verbose=args.verbose)
        default_setup(cfg, args)
        if not args.verbose:
            logger.info("Full log: %s/log.txt", folder)
        train_or_evaluate = prepare(cfg, args)
    except (AssertionError, ImportError, KeyError, OSError, ValueError) as error:
        line = one_line(error)
        sys.exit(line if args.config_file in line else f"{args.config_file}: {line}")
    with exit_on_fault(None if args.eval_only else folder):
        return train_or_evaluate()


@contextmanager
def exit_on_fault(folder: str | None) -> Iterator[None]:
    """Turns expected errors in this context into exit code 1 and one line that says why.

    The line names the checkpoint in a training's folder to resume from; None for an evaluation.

    Detectron2 has assertions both for a user's config or data and for its own invariants. The
    traceback tells the two apart, so it is printed, or in ``log.txt`` for a training.
    """
    try:
        yield
    except FAULTS as error:
        text = one_line(error)
        if isinstance(error, AssertionError):
            where = f"in {folder}/log.txt" if folder else "above"
            raised = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{raised.filename}:{raised.lineno}: {raised.line}"
            text = f"{text} ({place}; the traceback is {where})"
            if folder is None:
                traceback.print_exc()
        if text.startswith("Caught "):  # in a loader worker, whose traceback PyTorch puts here
            text = str(error).strip().splitlines()[-1]
        if isinstance(error, torch.OutOfMemoryError):
            text = f"{LESS_MEMORY} ({text.partition('. ')[0]})"
        sys.exit(text if folder is None else f"{text}; {_resume_hint(Path(folder))}")


def _resume_hint(folder: Path) -> str:
    last = folder / "last_checkpoint"
    if not last.is_file():
        return "no checkpoint was written yet"
    return f"kept: {folder / last.read_text().strip()}; continue with --resume"
