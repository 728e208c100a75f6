"""Suite ``core``: the two modules of FAM-KD, forward and backward, beside the plain formulas.

Legend: N batch, C channels, H and W map size, V = W // 2 + 1 columns of the half plane.
"""

from collections.abc import Iterator
from functools import partial

import torch

from fam_det.core import FrequencyAttention, WindowCrossAttention
from tools.benchmark.measuring import forward_backward
from tools.benchmark.references import FullSpectrumAttention, unfold_fusion
from tools.benchmark.rows import Case

DENSE_SHAPES = ((64, 64, 32), (64, 128, 16), (64, 256, 8), (8, 64, 56), (64, 32, 32))
ATTENTION_SHAPES = ((8, 256, 50, 84), (64, 64, 32, 32))


def cases(device: str) -> Iterator[Case]:
    """Yields one case a shape."""
    for dense_shape in DENSE_SHAPES:
        yield dense_case(*dense_shape, device)
    for shape in ATTENTION_SHAPES:
        yield attention_case(shape, device)


def dense_case(n: int, c: int, side: int, device: str) -> Case:
    """Compares FAM with the dense filter on square maps with the full complex formula."""
    torch.manual_seed(0)
    fam = FrequencyAttention(c, c, size=side).to(device)
    reference = FullSpectrumAttention(fam)
    x = torch.randn(n, c, side, side, device=device, requires_grad=True)
    frequencies = side * (side // 2 + 1)
    filter_values = 2 * frequencies * c * c  # real and imaginary parts
    # a complex multiply-add is 8 operations, a real one 2; thrice, for the backward pass
    flops = 3 * n * c * c * (8 * frequencies + 2 * side * side)
    # map, output, both gradients, each twice; filter read twice, its gradient written
    moved = 4 * (8 * x.numel() + 3 * filter_values)
    return Case(
        name=f"dense FAM {n}x{c}x{side}x{side}",
        project=forward_backward(fam, x, parameters=fam.parameters()),
        reference=forward_backward(reference, x, parameters=reference.parameters()),
        modules=(fam, reference),
        flops=flops,
        moved=moved,
        time_goal=0.25,
        memory_goal=0.5,
    )


def attention_case(shape: tuple[int, int, int, int], device: str) -> Case:
    """Compares window cross attention with unfolded windows."""
    torch.manual_seed(0)
    n, c, h, w = shape
    attention = WindowCrossAttention(c).to(device)
    maps = [torch.randn(shape, device=device, requires_grad=True) for _ in range(2)]
    # three 1x1 convolutions, thrice for the backward pass; 9 positions of about 4 + 8 operations
    flops = n * h * w * c * (3 * 3 * 2 * c + 9 * 12)
    # two maps, three projections, the output, and the gradient of each
    moved = 4 * 12 * n * c * h * w
    return Case(
        name=f"window attention {n}x{c}x{h}x{w}",
        project=forward_backward(attention, *maps, parameters=attention.parameters()),
        reference=forward_backward(
            partial(unfold_fusion, attention), *maps, parameters=attention.parameters()
        ),
        modules=(attention, attention),
        flops=flops,
        moved=moved,
        time_goal=1 / 3,
        memory_goal=0.25,
    )
