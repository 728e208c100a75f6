"""Suite ``kernels``: FAM and window attention against the papers' formulas, then every kernel.

Forward and backward. A hand-written kernel is compared with the plain operators that would replace
it, on p3 of an 800 x 1216 image with 256 channels and on a map of CIFAR's size. A kernel with a
ratio near one is not worth its lines.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core import FrequencyAttention, WindowCrossAttention
from fam_det.core.filters import DenseFilter, SeparableFilter
from fam_det.core.kernels.products import complex_matmul, pointwise, pointwise_weight_grad
from fam_det.core.kernels.window_attention import window_attention
from fam_det.core.losses import hierarchical_context_loss, mse_loss, spectral_correlation_loss
from tools.benchmark.measuring import Case, gradient_case
from tools.benchmark.references import (
    FullSpectrumAttention,
    convolution,
    correlation_loss,
    dense_filter,
    hierarchical_loss,
    separable_filter,
    unfold_attention,
    unfold_fusion,
)

DENSE_SHAPES = ((64, 64, 32), (64, 128, 16), (64, 256, 8), (8, 64, 56), (64, 32, 32))
ATTENTION_SHAPES = ((8, 256, 50, 84), (64, 64, 32, 32))
SHAPES = ((1, 256, 100, 152), (64, 64, 32, 32))


def modules(device: str) -> Iterator[Case]:
    """Yields one case a shape: FAM with the dense filter on square maps, window attention."""
    torch.manual_seed(0)
    for n, c, side in DENSE_SHAPES:
        fam = FrequencyAttention(c, c, size=side).to(device)
        full_spectrum = FullSpectrumAttention(fam)
        x = torch.randn(n, c, side, side, device=device, requires_grad=True)
        yield gradient_case(
            f"dense FAM {n}x{c}x{side}x{side}",
            fam,
            full_spectrum,
            x,
            modules=(fam, full_spectrum),
            time_goal=0.25,
            memory_goal=0.5,
        )
    for n, c, h, w in ATTENTION_SHAPES:
        attention = WindowCrossAttention(c).to(device)
        maps = [torch.randn(n, c, h, w, device=device, requires_grad=True) for _ in range(2)]
        yield gradient_case(
            f"window attention {n}x{c}x{h}x{w}",
            attention,
            partial(unfold_fusion, attention),
            *maps,
            modules=(attention, attention),
            time_goal=1 / 3,
            memory_goal=0.25,
        )


def cases(device: str) -> Iterator[Case]:
    """Yields a case a kernel and shape; the dense filter has one size, so CIFAR's alone."""
    torch.manual_seed(0)
    yield from modules(device)
    for n, c, h, w in SHAPES:
        x, key, value, offsets, weight = (
            torch.randn(shape, device=device, requires_grad=True)
            for shape in (*[(n, c, h, w)] * 3, (c, 3, 3), (c, c))
        )
        teacher = x.detach().roll(1, 1)
        rows: list[tuple[Any, Any, tuple[Tensor, ...]]] = [
            (window_attention, unfold_attention, (x, key, value, offsets)),
            (pointwise, convolution, (x, weight)),
            (pointwise_weight_grad, plain_weight_grad, (key.detach(), value.detach())),
            (mse_loss, F.mse_loss, (x, teacher)),
            (hierarchical_context_loss, hierarchical_loss, (x, teacher)),
            (spectral_correlation_loss, correlation_loss, (x, teacher)),
        ]
        for project, reference, inputs in rows:
            yield gradient_case(f"{project.__name__} {n}x{c}x{h}x{w}", project, reference, *inputs)
        yield filter_case(SeparableFilter(c, c, 8), separable_filter, x, weight)
    yield filter_case(DenseFilter(c, c, h, w), dense_filter, x, weight)
    frequencies = h * (w // 2 + 1)  # each a product, in half precision beside float32
    a, b = (
        torch.randn(frequencies, size, c, device=device, dtype=torch.complex64) for size in (n, c)
    )
    name = f"complex_matmul in bfloat16 {frequencies}x{n}x{c}"
    yield gradient_case(name, partial(complex_matmul, dtype=torch.bfloat16), torch.matmul, a, b)


def filter_case(module: nn.Module, reference: Any, x: Tensor, local: Tensor) -> Case:
    """Returns a filter with the local branch, against plain operators on its parameters."""
    module.to(x.device)
    high_pass = x.new_ones(x.shape[2], x.shape[3] // 2 + 1)
    gamma = x.new_ones(1).requires_grad_()
    return gradient_case(
        f"{type(module).__name__} {'x'.join(map(str, x.shape))}",
        lambda x, gamma, local: module(x, gamma * high_pass, local),
        lambda x, gamma, local: reference(module, x, gamma * high_pass, local),
        *(x, gamma, local),
        modules=(module, module),
    )


def plain_weight_grad(grad: Tensor, maps: Tensor) -> Tensor:
    """Returns the gradient of the weight of a 1x1 convolution."""
    return torch.einsum("nohw,nihw->oi", grad, maps)
