"""Estimates what a training costs before it starts: image sizes, epochs, hours."""

import gc
import logging
import math
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from statistics import mean
from tempfile import TemporaryDirectory

import torch

from fam_det.data import build_train_loader, register_coco_datasets
from fam_det.export.parts import describe_device
from fam_det.export.source import LOAD_ERRORS, MAX_REASON
from fam_det.files import one_line
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling.metrics import wall_clock
from fam_det.recipes.meter import resized, test_size
from fam_det.recipes.recipe import Request
from fam_det.training.non_finite import AMPStepTrainer, StepTrainer

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

SECONDS, SHARE = 10.0, 0.01  # of measuring at most, and as a fraction of the whole training
FAULTS = (*LOAD_ERRORS, FloatingPointError)


def describe_cost(request: Request, cfg: CfgNode, trainings: int = 1) -> str:
    """Returns lines on the cost of a training; measures some of its iterations.

    Args:
        request: from which the config was derived.
        cfg: its config.
        trainings: number of trainings, none longer than this one.
    """
    solver, images = cfg.SOLVER, sum(data.num_trained for data in request.trained)
    passes = solver.MAX_ITER * solver.IMS_PER_BATCH / images
    evaluations = math.ceil(solver.MAX_ITER / (cfg.TEST.EVAL_PERIOD or solver.MAX_ITER))
    time = _describe_time(cfg, request.num_gpus, trainings)
    gc.collect()  # ends the loader's worker processes
    return (
        f"{describe_sizes(cfg, request.train.size)}\n"
        f"{solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH} images: {passes:,.1f} passes "
        f"over {images:,} images; evaluations of {request.val.num_images:,} images: {evaluations}\n"
        f"{time}"
    )


def _describe_time(cfg: CfgNode, num_gpus: int, trainings: int) -> str:
    print("measuring an iteration", file=sys.stderr, flush=True)
    try:
        measure = measure_iteration if cfg.MODEL.DEVICE == "cpu" else measure_in_subprocess
        seconds, count = measure(cfg, num_gpus)
    except FAULTS as error:
        return f"no time was measured: {one_line(error, MAX_REASON)}"
    total = seconds * cfg.SOLVER.MAX_ITER
    device = describe_device(cfg.MODEL.DEVICE)
    if cfg.MODEL.DEVICE.startswith("cuda") and num_gpus > 1:
        device += f", one of {num_gpus} with its images"
    text = (
        f"{seconds:.2g} s an iteration (measured now, over {count}, on {device}): about "
        f"{_format_duration(total)}, and the evaluations"
    )
    if trainings > 1:
        text += f"; for all {trainings} trainings up to {_format_duration(trainings * total)}"
    return text


def describe_sizes(cfg: CfgNode, size: tuple[int, int]) -> str:
    """Returns a line on the sizes that an image of (H, W) is resized to."""
    node = cfg.INPUT
    train = {resized(size, x, node.MAX_SIZE_TRAIN) for x in node.MIN_SIZE_TRAIN}
    test = test_size(size, cfg)
    bounds = dict.fromkeys(_format_size(x) for x in (min(train), max(train)))
    resized_to = " to ".join(bounds)
    text = f"images: {_format_size(size)} (median height x width), resized to {resized_to}"
    if train != {test}:
        text += f" for training, {_format_size(test)} for evaluation"
    scale = cfg.MODEL.TEACHER.INPUT_SCALE
    return text + f"; {scale:g} times as large for the teacher" * (scale > 1)


def _format_size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _format_duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"


def measure_in_subprocess(cfg: CfgNode, processes: int = 1) -> tuple[float, int]:
    """Calls ``measure_iteration`` in another process, so that all GPU memory is freed.

    PyTorch frees its CUDA context, 0.5 GB, only when a process ends. Raises a RuntimeError if the
    process is killed.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure_iteration, cfg, processes).result()


def measure_iteration(cfg: CfgNode, processes: int = 1) -> tuple[float, int]:
    """Returns the mean seconds of an iteration, and the number of measured iterations.

    They include everything: the loader's workers, teacher and student, gradients and the
    optimiser's step, at a learning rate of 0. The first iteration, a warm-up, is left out. Of
    several processes one is measured, without the others.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH //= processes
    cfg.SOLVER.BASE_LR, cfg.VIS_PERIOD = 0.0, 0
    cfg.MODEL.TEACHER.BASIS_IMAGES, cfg.MODEL.TEACHER.CACHE = 1, ""
    with TemporaryDirectory() as folder, warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # the training itself will show warnings and logs
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.CRITICAL)
        trainer, device = _trainer(cfg, folder), torch.device(cfg.MODEL.DEVICE)
        seconds: list[float] = []
        # At the last iteration: no loss is warming up.
        with EventStorage(max_iter := cfg.SOLVER.MAX_ITER):
            while len(seconds) < 2 or sum(seconds) < min(SECONDS, SHARE * seconds[-1] * max_iter):
                start = wall_clock(device)
                trainer.run_step()
                seconds.append(wall_clock(device) - start)
    return mean(seconds[1:]), len(seconds) - 1


def _trainer(cfg: CfgNode, folder: str) -> StepTrainer | AMPStepTrainer:
    register_coco_datasets(cfg)
    model, loader = build_model(cfg), build_train_loader(cfg)
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if hasattr(model, "load_teacher"):
        model.load_teacher(loader)
    step_trainer = AMPStepTrainer if cfg.SOLVER.AMP.ENABLED else StepTrainer
    trainer = step_trainer(model, loader, build_optimizer(cfg, model))
    trainer.folder, trainer.max_non_finite = folder, cfg.SOLVER.MAX_ITER
    return trainer
