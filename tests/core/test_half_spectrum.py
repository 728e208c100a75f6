"""Training the half spectrum equals training the full complex one of the released code."""

import pytest
import torch
from torch import Tensor, nn

from fam_det.core import FAMOptions, FrequencyAttention
from tests.core.core_reference import conv1x1, hermitian_part, high_pass_full, stored_half

SIZES = [(4, 4), (5, 5), (4, 5), (5, 4), (6, 7), (8, 6), (2, 2), (3, 2)]
SIZES += [(1, 4), (1, 5), (4, 1), (5, 1), (1, 2), (2, 1), (1, 1)]


class FullSpectrumAttention(nn.Module):
    """FAM with one complex parameter over the full plane, real part taken at the end."""

    def __init__(self, c_in: int, c_out: int, size: tuple[int, int], high_pass: str) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.randn(*size, c_in, c_out, dtype=torch.complex128))
        self.local = nn.Conv2d(c_in, c_out, 1).double()
        self.gamma_global = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
        self.gamma_local = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
        self.register_buffer("h", high_pass_full(high_pass, *size, 0.4))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.einsum("nihw,hwio->nohw", torch.fft.fft2(x), self.k) * self.h
        local_branch = conv1x1(x, self.local.weight, self.local.bias)
        return self.gamma_global * torch.fft.ifft2(spectrum).real + self.gamma_local * local_branch


def pair(size: tuple[int, int], high_pass: str) -> tuple[FullSpectrumAttention, FrequencyAttention]:
    """The full and the half module with the same filter, float64."""
    torch.manual_seed(0)
    full = FullSpectrumAttention(2, 3, size, high_pass)
    half = FrequencyAttention(2, 3, FAMOptions(high_pass=high_pass, cutoff=0.4), size=size).double()
    with torch.no_grad():
        half.filter.weight.copy_(stored_half(full.k))
        half.local.load_state_dict(full.local.state_dict())
    return full, half


@pytest.mark.parametrize("high_pass", ["none", "ideal", "gaussian"])
@pytest.mark.parametrize("size", SIZES)
def test_output_equals_that_of_the_full_complex_filter(size, high_pass) -> None:
    full, half = pair(size, high_pass)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(half(x), full(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("high_pass", ["none", "ideal"])
@pytest.mark.parametrize("size", SIZES)
def test_twenty_sgd_steps_equal_those_of_the_full_complex_filter(size, high_pass) -> None:
    full, half = pair(size, high_pass)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    target = torch.randn(3, 3, *size, dtype=torch.float64)
    options = {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.05}
    optimizers = [torch.optim.SGD(m.parameters(), **options) for m in (full, half)]
    start = full.k.detach().clone()
    for _ in range(20):
        outputs = [m(x) for m in (full, half)]
        torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-12)
        for out, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            (out.tanh() - target).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(half(x), full(x), rtol=0, atol=1e-12)
    assert (full.k - start).abs().max() > 0.1  # the steps were not trivial
    columns = size[1] // 2 + 1
    torch.testing.assert_close(
        half.filter.spectrum(*size), hermitian_part(full.k)[:, :columns], rtol=0, atol=1e-12
    )
    for name in ("gamma_global", "gamma_local", "local.weight", "local.bias"):
        torch.testing.assert_close(
            half.get_parameter(name), full.get_parameter(name), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("size", SIZES)
def test_the_norm_that_weight_decay_shrinks_is_that_of_the_full_filter(size) -> None:
    """|S|^2 summed = |K|^2 summed for a Hermitian K: the reason for the sqrt(2)."""
    full, half = pair(size, "none")
    symmetric = hermitian_part(full.k.detach())
    with torch.no_grad():
        half.filter.weight.copy_(stored_half(symmetric))
    torch.testing.assert_close(
        half.filter.weight.square().sum(), symmetric.abs().square().sum(), rtol=1e-13, atol=0
    )
