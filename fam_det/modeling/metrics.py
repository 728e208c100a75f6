"""Logs scalars, times, gammas and images of feature maps to Detectron2's event storage."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fam_det.core import FrequencyAttention
from fam_det.files.metrics_file import LOG_PERIOD

from detectron2.utils.events import EventStorage, get_event_storage

WHITE_QUANTILE = 0.99  # of the cells: what is above is white
CELL = 4  # pixels of an image per cell of a map, in height and width


def log_scalars(scalars: Mapping[str, Tensor]) -> None:
    """Puts scalars under ``distiller/`` in the event storage, in the iterations that are written.

    Reading a value waits for the GPU, so others are not read. In the first ``LOG_PERIOD``
    iterations all are: a trial run has no more.

    Args:
        scalars: one-element tensors by name.
    """
    storage = get_event_storage()
    if not scalars or not _is_written(storage):
        return
    values = torch.stack([x.detach().float().squeeze() for x in scalars.values()]).tolist()
    for name, value in zip(scalars, values, strict=True):
        storage.put_scalar(f"distiller/{name}", value, smoothing_hint=False)


def _is_written(storage: EventStorage) -> bool:
    return storage.iter < LOG_PERIOD or (storage.iter + 1) % LOG_PERIOD == 0


@contextmanager
def timed_scalar(name: str, device: torch.device) -> Iterator[None]:
    """Times this context in the iterations in which ``log_scalars`` logs.

    Timing waits for the GPU before and after, so it is skipped in the others.
    """
    storage = get_event_storage()
    if not _is_written(storage):
        yield
        return
    start = wall_clock(device)
    yield
    storage.put_scalar(f"distiller/{name}", wall_clock(device) - start, smoothing_hint=False)


def wall_clock(device: torch.device) -> float:
    """Returns ``time.perf_counter`` once the GPU has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def gammas(transform: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns gamma_global and gamma_local (gamma1 and gamma2 of the paper) of every module.

    Args:
        transform: has a frequency attention module for each name, or none at all.
        names: of the levels or stages, in the modules' order.
    """
    modules = [m for m in transform.modules() if isinstance(m, FrequencyAttention)]
    return {  # not strict: transforms of other methods have no such modules
        f"gamma_{branch}_{name}": getattr(module, f"gamma_{branch}")
        for name, module in zip(names, modules, strict=False)
        for branch in ("global", "local")
    }


@torch.no_grad()
def put_feature_images(
    storage: EventStorage, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
) -> None:
    """Puts images of the first image's maps in the event storage: student left, teacher right.

    Args:
        storage: Detectron2's.
        student: (N, C, H, W) by level.
        teacher: (N, C_teacher, H, W) by level; only its levels are drawn.
    """
    for level, teacher_map in teacher.items():
        norms = [
            x[0].detach().float().square().mean(0).sqrt() for x in (student[level], teacher_map)
        ]
        plane = torch.cat(norms, dim=1)
        rank = max(1, int(WHITE_QUANTILE * plane.numel()))
        white = plane.flatten().kthvalue(rank).values
        storage.put_image(f"distiller/{level}: student, teacher", grey_image(plane, white))


def grey_image(plane: Tensor, white: Tensor) -> Tensor:
    """Returns an image (3, CELL * H, CELL * W) in [0, 1] of a plane (H, W) from 0 to ``white``."""
    grey = (plane / white.clamp(min=1e-12)).clamp(max=1.0)
    return grey.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1).expand(3, -1, -1).cpu()
