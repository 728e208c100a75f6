"""Start the processes of a run: Detectron2's ``--num-gpus`` or torchrun, on GPUs or CPUs."""

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from detectron2.engine import default_setup
from detectron2.engine import launch as launch_here
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

TIMEOUT = timedelta(minutes=30)  # Detectron2's
LOGGERS = ("fam_det", "classification")


def launch(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Call ``main(args)`` in every process of the run.

    Under ``torchrun`` this process is one of them, and torchrun's own flags say how many there are
    on how many machines. Otherwise the processes are started here, one a GPU, as
    ``args.num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url`` say.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        launch_here(
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
        comm.synchronize()  # none leaves while another still reads from it
    finally:
        dist.destroy_process_group()


def join_torchrun() -> None:
    """Make this process, which torchrun has started, one of Detectron2's."""
    local_rank, local_size = (int(os.environ[f"LOCAL_{key}"]) for key in ("RANK", "WORLD_SIZE"))
    on_gpus = torch.cuda.device_count() >= local_size
    if on_gpus:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_gpus else "gloo", timeout=TIMEOUT)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    for machine in range(dist.get_world_size() // local_size):  # v0.6 has it inside its launch
        group = dist.new_group(list(range(machine * local_size, (machine + 1) * local_size)))
        if machine == int(os.environ["GROUP_RANK"]):
            comm._LOCAL_PROCESS_GROUP = group


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
