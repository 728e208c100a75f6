"""What runs in which dtype under autocast: channel mixing in its own, the FFT in float32."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fam_det.core import FAMOptions, FrequencyAttention, KnowledgeReview
from fam_det.core.kernels.products import complex_matmul
from fam_det.core.losses import LOSSES

FILTERS = ("dense", "pooled", "banded", "separable")
TRANSFORMS = {"_fft_r2c", "_fft_c2r", "_fft_c2c"}
PRODUCTS = {"mm", "bmm", "baddbmm", "baddbmm_"}
SINGLE = {torch.float32, torch.complex64}
C_IN, C_OUT = 5, 7  # sizes that tell a product over channels from any other


class Recorder(TorchDispatchMode):
    """Dtypes and shapes of the tensors that go into each operator, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[list[Tensor]]] = defaultdict(list)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.seen[func.overloadpacket.__name__].append(tensors)
        return func(*args, **(kwargs or {}))

    def dtypes(self, names: set[str]) -> set[torch.dtype]:
        """Dtypes of what went into these operators."""
        return {x.dtype for name in names for call in self.seen[name] for x in call}

    def channel_mixing_dtypes(self) -> set[torch.dtype]:
        """Dtypes of the products of which one side is as wide as the module's output."""
        return {
            x.dtype
            for name in PRODUCTS
            for call in self.seen[name]
            if any(C_OUT in y.shape or 2 * C_OUT in y.shape for y in call)
            for x in call
        }


def assert_close_to(got: Tensor, want: Tensor, relative: float) -> None:
    """The largest difference over the largest value."""
    assert ((got - want).abs().max() / want.abs().max()).item() < relative


def module(kind: str) -> FrequencyAttention:
    torch.manual_seed(0)
    return FrequencyAttention(
        C_IN, C_OUT, FAMOptions(grid=4, filter=kind, high_pass="none"), size=(6, 8)
    )


def maps(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, C_IN, 6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FILTERS)
def test_channels_are_mixed_in_the_autocast_dtype(kind, input_dtype, enabled) -> None:
    x = maps(input_dtype).requires_grad_()
    with Recorder() as recorder, torch.autocast("cpu", torch.bfloat16, enabled=enabled):
        out = module(kind)(x)
    assert out.dtype == input_dtype
    assert recorder.dtypes(TRANSFORMS) == SINGLE
    dtypes = recorder.channel_mixing_dtypes()
    assert dtypes == {torch.bfloat16} if enabled else dtypes <= SINGLE


@pytest.mark.parametrize("kind", FILTERS)
def test_the_way_back_mixes_channels_in_the_autocast_dtype_too(kind: str) -> None:
    x = maps().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(kind)(x)
    with Recorder() as recorder:
        out.square().sum().backward()
    assert recorder.dtypes(TRANSFORMS) == SINGLE
    assert recorder.channel_mixing_dtypes() == {torch.bfloat16}


@pytest.mark.parametrize("fusion", ["cross_attention", "abf", "none"])
@pytest.mark.parametrize("transform", ["fam", "conv3x3"])
def test_convolutions_of_a_review_run_in_the_autocast_dtype(fusion: str, transform: str) -> None:
    review = KnowledgeReview([4, 6], 8, [5, 7], fusion=fusion, transform=transform, relu=False)
    with Recorder() as recorder, torch.autocast("cpu", torch.bfloat16):
        review([torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)])
    assert recorder.dtypes({"convolution", "mkldnn_convolution"}) == {torch.bfloat16}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_computed_in_float32(name: str) -> None:
    student, teacher = torch.randn(2, 3, 8, 8).bfloat16(), torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](student, teacher, None)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](student.float(), teacher, None))


@pytest.mark.parametrize("kind", FILTERS)
def test_values_and_gradients_are_close_to_those_of_float32(kind: str) -> None:
    """bfloat16 has 8 binary digits: rounding is off by 2^-9 of a value at most."""
    results = []
    for enabled in (False, True):
        fam, x = module(kind), maps().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = fam(x)
        out.float().square().sum().backward()
        results.append([out, x.grad, *(p.grad for p in fam.parameters())])
    for want, got in zip(*results, strict=True):
        assert_close_to(got, want, 2e-2)


def test_float64_maps_stay_in_float64() -> None:
    fam, x = module("separable").double(), maps(torch.float64)
    expected = fam(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fam(x), expected)


@pytest.mark.parametrize("dtype, relative", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_complex_product_in_half_precision(dtype, relative, scale) -> None:
    """A filter of 256 x 256 channels starts near 1e-5, and a zero frequency can be past 65504."""
    torch.manual_seed(0)
    a = 1e5 * torch.randn(3, 4, 5, dtype=torch.complex64)
    b = scale * torch.randn(3, 5, 6, dtype=torch.complex64)
    expected = torch.bmm(a, b)
    assert_close_to(complex_matmul(a, b, dtype), expected, relative)
    out = torch.empty_like(expected)
    assert complex_matmul(a, b, dtype, out=out) is out
    assert_close_to(out, expected, relative)
    assert torch.equal(complex_matmul(a, b, torch.float32), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_a_backward_pass_under_autocast_gives_the_gradient_of_one_outside(name: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 4, 9, 8).unbind()
    student.requires_grad_()

    def gradient() -> Tensor:
        return torch.autograd.grad(LOSSES[name](student, teacher, None), student)[0]

    outside = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gradient(), outside)
