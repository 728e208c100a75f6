"""Logs of a distillation beside its losses: scalars, gammas, and images of feature maps."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fam_det.core import FrequencyAttention
from fam_det.files.metrics_file import LOG_PERIOD

from detectron2.utils.events import EventStorage, get_event_storage

BRIGHTEST = 0.99  # share of the cells that the grey levels cover
CELL = 4  # pixels an image gives to a cell of a map


def log_scalars(scalars: Mapping[str, Tensor]) -> None:
    """Puts scalars in Detectron2's event storage, under ``distiller/``, when its writers write.

    To read a value is to wait for the GPU, so nothing is read between two lines of metrics, but in
    the first iterations, which are all that a trial run has.

    Args:
        scalars: tensors of one value by name.
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
    """Puts the seconds of this context in the event storage in those iterations, and at no other.

    To know them is to wait for the GPU before and after.
    """
    storage = get_event_storage()
    if not _is_written(storage):
        yield
        return
    start = wall_clock(device)
    yield
    storage.put_scalar(f"distiller/{name}", wall_clock(device) - start, smoothing_hint=False)


def wall_clock(device: torch.device) -> float:
    """Returns seconds, of which the differences count; a GPU is waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def gammas(transform: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns gamma_global and gamma_local (gamma1 and gamma2 of the paper) of every module.

    Args:
        transform: with a frequency attention module for each name, or with none.
        names: of the levels or stages, in the modules' order.
    """
    modules = [m for m in transform.modules() if isinstance(m, FrequencyAttention)]
    return {
        f"gamma_{branch}_{name}": getattr(module, f"gamma_{branch}")
        for name, module in zip(names, modules, strict=False)
        for branch in ("global", "local")
    }


@torch.no_grad()
def put_feature_images(
    storage: EventStorage, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
) -> None:
    """Puts images of the batch's first maps in the event storage: student left, teacher right.

    Args:
        storage: Detectron2's.
        student: (N, C, H, W) by level.
        teacher: (N, C_teacher, H, W) by level; only its levels are drawn.
    """
    for level, of_teacher in teacher.items():
        planes = [
            x[0].detach().float().square().mean(0).sqrt() for x in (student[level], of_teacher)
        ]
        storage.put_image(f"distiller/{level}: student, teacher", _grey(torch.cat(planes, dim=1)))


def _grey(plane: Tensor) -> Tensor:
    """Returns a grey image (3, CELL * H, CELL * W) in [0, 1] of a plane (H, W), 0 or more."""
    top = plane.flatten().kthvalue(max(1, int(BRIGHTEST * plane.numel()))).values.clamp(min=1e-12)
    bounded = (plane / top).clamp(max=1.0)
    return bounded.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1).expand(3, -1, -1).cpu()
