"""Suite ``core``: the two modules of FAM-KD, forward and backward, beside the plain formulas."""

from collections.abc import Iterator
from functools import partial

import torch

from fam_det.core import FrequencyAttention, WindowCrossAttention
from tools.benchmark.references import FullSpectrumAttention, unfold_fusion
from tools.benchmark.rows import Case, gradient_case

DENSE_SHAPES = ((64, 64, 32), (64, 128, 16), (64, 256, 8), (8, 64, 56), (64, 32, 32))
ATTENTION_SHAPES = ((8, 256, 50, 84), (64, 64, 32, 32))


def cases(device: str) -> Iterator[Case]:
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
