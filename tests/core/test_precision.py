"""Every real dtype, and autocast: the FFT runs in float32 whatever surrounds it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fam_det.core import (
    AttentionBasedFusion,
    FAMOptions,
    FrequencyAttention,
    KnowledgeReview,
    LayerToLayer,
    WindowCrossAttention,
)

FILTERS = ["dense", "banded", "separable"]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
RELATIVE = {torch.bfloat16: 5e-2, torch.float16: 1e-2, torch.float32: 1e-4, torch.float64: 1e-12}
REVIEWS = [("cross_attention", "fam"), ("abf", "fam"), ("abf", "conv3x3"), ("none", "fam")]


def assert_close_to(got: Tensor, want: Tensor, relative: float) -> None:
    """The largest difference over the largest value."""
    assert ((got.double() - want.double()).abs().max() / want.abs().max()).item() < relative


@pytest.fixture
def fft_dtypes(monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """Collects the dtype of everything that is transformed while the test runs."""
    seen: set[torch.dtype] = set()

    def recording(transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def record(x: Tensor, *args: object, **kwargs: object) -> Tensor:
            seen.add(x.dtype)
            return transform(x, *args, **kwargs)

        return record

    for name in ("fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn"):
        monkeypatch.setattr(torch.fft, name, recording(getattr(torch.fft, name)))
    return seen


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FILTERS)
def test_under_autocast_the_fft_runs_in_float32(kind, input_dtype, fft_dtypes) -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(4, 6, FAMOptions(filter=kind), size=(6, 7))
    x = torch.randn(2, 4, 6, 7).to(input_dtype).requires_grad_()
    expected = fam(x.float())
    fft_dtypes.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = fam(x)
    assert fft_dtypes == {torch.float32, torch.complex64}
    assert_close_to(out, expected, 2e-2)
    out.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in [x, *fam.parameters()])
    assert all(p.grad.dtype == p.dtype for p in [x, *fam.parameters()])


@pytest.mark.parametrize("fusion, transform", REVIEWS)
def test_a_review_trains_under_autocast_close_to_float32(fusion, transform) -> None:
    torch.manual_seed(0)
    review = KnowledgeReview([4, 6], 8, [5, 7], fusion=fusion, transform=transform, relu=False)
    review.eval()
    maps = [torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)]
    expected = review(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = review(maps)
        for got, want in zip(outputs, expected, strict=True):
            assert_close_to(got, want, 6e-2)
        review.train()
        loss = sum(t.float().square().mean() for t in review(maps))
    loss.backward()
    for name, p in review.named_parameters():
        assert p.grad is not None, name
        assert p.grad.dtype == torch.float32, name
        assert torch.isfinite(p.grad).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 6)])
def test_frequency_attention_keeps_the_dtype_of_module_and_map(kind, dtype, size) -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(4, 6, FAMOptions(filter=kind), size=size)
    reference = FrequencyAttention(4, 6, FAMOptions(filter=kind), size=size).double()
    fam.to(dtype)
    reference.load_state_dict(fam.state_dict())  # the parameters after rounding
    x = torch.randn(2, 4, *size).to(dtype)
    out = fam(x)
    assert out.dtype == dtype
    assert_close_to(out, reference(x.double()), RELATIVE[dtype])
    out.float().square().sum().backward()
    for name, p in fam.named_parameters():
        assert p.grad.dtype == dtype, name
        assert torch.isfinite(p.grad).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", [WindowCrossAttention, AttentionBasedFusion])
def test_fusions_keep_the_dtype_of_module_and_maps(cls, dtype) -> None:
    torch.manual_seed(0)
    module, reference = cls(4).to(dtype), cls(4).double()
    reference.load_state_dict(module.state_dict())
    x, y = (torch.randn(2, 4, 5, 6).to(dtype) for _ in range(2))
    out = module(x, y)
    assert out.dtype == dtype
    assert_close_to(out, reference(x.double(), y.double()), RELATIVE[dtype])
    out.float().square().sum().backward()
    assert all(p.grad.dtype == dtype for p in module.parameters())
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fusion, transform", REVIEWS)
def test_reviews_keep_the_dtype_of_module_and_maps(fusion, transform, dtype) -> None:
    torch.manual_seed(0)
    review = KnowledgeReview([4, 6], 8, [5, 7], fusion=fusion, transform=transform).to(dtype)
    outputs = review([torch.randn(2, 4, 8, 8, dtype=dtype), torch.randn(2, 6, 4, 4, dtype=dtype)])
    assert [t.dtype for t in outputs] == [dtype, dtype]
    assert all(torch.isfinite(t).all() for t in outputs)
    sum(t.float().square().mean() for t in outputs).backward()
    assert all(p.grad.dtype == dtype for p in review.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_to_layer_keeps_the_dtype_of_module_and_maps(dtype) -> None:
    distiller = LayerToLayer([4, 6], [5, 7]).to(dtype)
    maps = [torch.randn(2, 4, 8, 8, dtype=dtype), torch.randn(2, 6, 4, 4, dtype=dtype)]
    assert [t.dtype for t in distiller(maps)] == [dtype, dtype]


@pytest.mark.parametrize("kind", FILTERS)
def test_float64_is_transformed_in_float64(kind, fft_dtypes) -> None:
    fam = FrequencyAttention(2, 3, FAMOptions(filter=kind), size=4).double()
    fam(torch.randn(1, 2, 4, 4, dtype=torch.float64))
    assert fft_dtypes == {torch.float64, torch.complex128}


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_do_not_overflow(kind, dtype) -> None:
    """The zero frequency of 64 x 64 values of 100 is 409,600, past the largest float16."""
    fam = FrequencyAttention(1, 1, FAMOptions(filter=kind, high_pass="none"), size=64).to(dtype)
    out = fam(torch.full((1, 1, 64, 64), 100.0, dtype=dtype))
    assert torch.isfinite(out).all()
