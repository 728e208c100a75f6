"""A backbone that is only ever run forward, made faster without changing what it computes."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detectron2.layers import FrozenBatchNorm2d


@torch.no_grad()
def speed_up(backbone: nn.Module) -> None:
    """Fold BatchNorm into the convolution before it, and store the weights channels last.

    The maps of the backbone in eval mode stay the same but for rounding. State-dict keys change, so
    load weights first.

    Args:
        backbone: of Detectron2's ``Conv2d``, which keep their ``norm``; others stay as they are.
    """
    for module in backbone.modules():
        norm = getattr(module, "norm", None)
        if isinstance(module, nn.Conv2d) and _has_fixed_statistics(norm):
            _fold(module, norm)
            module.norm = None  # type: ignore[assignment]
    backbone.to(memory_format=torch.channels_last)


def _has_fixed_statistics(norm: nn.Module | None) -> bool:
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return isinstance(norm, _BatchNorm) and norm.affine and norm.track_running_stats


def _fold(conv: nn.Conv2d, norm: Any) -> None:
    """Scale and shift the convolution's output as the norm does."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
    conv.bias = nn.Parameter(shift, requires_grad=False)
