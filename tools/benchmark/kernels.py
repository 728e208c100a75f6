"""Suite ``kernels``: each hand-written kernel beside the plain operators that would replace it.

Forward and backward, on p3 of an 800 x 1216 image with 256 channels and on a map of CIFAR's size.
A kernel whose ratio is near one is not worth its lines.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core.filters import DenseFilter, SeparableFilter
from fam_det.core.kernels.complex_matmul import complex_matmul
from fam_det.core.kernels.pointwise import pointwise, pointwise_weight_grad
from fam_det.core.kernels.window_attention import window_attention
from fam_det.core.losses import hierarchical_context_loss, mse_loss, spectral_correlation_loss
from tools.benchmark.measuring import forward_backward
from tools.benchmark.references import (
    correlation_loss,
    dense_filter,
    hierarchical_loss,
    separable_filter,
    unfold_attention,
)
from tools.benchmark.rows import Case

SHAPES = ((1, 256, 100, 152), (64, 64, 32, 32))


def cases(device: str) -> Iterator[Case]:
    """Yields a case a kernel and shape; the dense filter has one size, so CIFAR's alone."""
    torch.manual_seed(0)
    for shape in SHAPES:
        yield from attention_and_pointwise(shape, device)
        yield from losses(shape, device)
        c = shape[1]
        yield filter_case(SeparableFilter(c, c, 8).to(device), separable_filter, shape)
    c, side = SHAPES[1][1:3]
    yield filter_case(DenseFilter(c, c, side, side).to(device), dense_filter, SHAPES[1])
    yield half_precision(device)


def attention_and_pointwise(shape: tuple[int, ...], device: str) -> Iterator[Case]:
    """Yields window attention, 1x1 convolution and the gradient of its weight."""
    c = shape[1]
    query, key, value = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
    offsets = torch.randn(c, 3, 3, device=device, requires_grad=True)
    inputs = (query, key, value, offsets)
    yield case("window_attention", shape, window_attention, unfold_attention, *inputs)
    weight = torch.randn(c, c, device=device, requires_grad=True)
    yield case("pointwise", shape, pointwise, convolution, query, weight)
    grad, maps = key.detach(), value.detach()
    yield Case(
        name=f"pointwise_weight_grad {'x'.join(map(str, shape))}",
        project=lambda: pointwise_weight_grad(grad, maps),
        reference=lambda: torch.einsum("nohw,nihw->oi", grad, maps),
    )


def losses(shape: tuple[int, ...], device: str) -> Iterator[Case]:
    """Yields the losses whose backward pass is written by hand."""
    student = torch.randn(shape, device=device, requires_grad=True)
    teacher = torch.randn(shape, device=device)
    for loss, reference in (
        (mse_loss, F.mse_loss),
        (hierarchical_context_loss, hierarchical_loss),
        (spectral_correlation_loss, correlation_loss),
    ):
        yield case(loss.__name__, shape, loss, reference, student, teacher)


def filter_case(
    module: DenseFilter | SeparableFilter,
    reference: Callable[..., Tensor],
    shape: tuple[int, ...],
) -> Case:
    """Returns a filter with the local branch, against plain operators on its parameters."""
    device, c = next(module.parameters()).device, shape[1]
    x = torch.randn(shape, device=device, requires_grad=True)
    high_pass = torch.ones(shape[2], shape[3] // 2 + 1, device=device)
    gamma = torch.ones(1, device=device, requires_grad=True)
    local = torch.randn(c, c, device=device, requires_grad=True)

    def project(x: Tensor, gamma: Tensor, local: Tensor) -> Tensor:
        return module(x, gamma * high_pass, local)

    def plain(x: Tensor, gamma: Tensor, local: Tensor) -> Tensor:
        return reference(module, x, gamma * high_pass, local)

    parameters = list(module.parameters())
    return Case(
        name=f"{type(module).__name__} {'x'.join(map(str, shape))}",
        project=forward_backward(project, x, gamma, local, parameters=parameters),
        reference=forward_backward(plain, x, gamma, local, parameters=parameters),
    )


def half_precision(device: str) -> Case:
    """Returns the product of each frequency in bfloat16, against complex numbers in float32."""
    n, c, height, width = SHAPES[1]
    a = torch.randn(height * (width // 2 + 1), n, c, device=device, dtype=torch.complex64)
    b = torch.randn(len(a), c, c, device=device, dtype=torch.complex64)
    return Case(
        name=f"complex_matmul in bfloat16 {'x'.join(map(str, a.shape))}",
        project=lambda: complex_matmul(a, b, torch.bfloat16),
        reference=lambda: a @ b,
    )


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Returns a 1x1 convolution as PyTorch has it."""
    return F.conv2d(x, weight[:, :, None, None])


def case(
    name: str,
    shape: tuple[int, ...],
    project: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    *inputs: Tensor,
) -> Case:
    """Returns two functions of the same tensors, forward and backward."""
    return Case(
        name=f"{name} {'x'.join(map(str, shape))}",
        project=forward_backward(project, *inputs),
        reference=forward_backward(reference, *inputs),
    )
