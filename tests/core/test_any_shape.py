"""FAM on any map: shape, dtype, finite values and gradients, whatever the filter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_det.core import FAMOptions, FrequencyAttention
from fam_det.core.filters import FILTERS

DTYPES = [torch.float32, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("kind", FILTERS)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    grid=st.sampled_from([2, 4, 8]),
    high_pass=st.sampled_from(["none", "ideal", "gaussian", "butterworth"]),
    cutoff=st.floats(0.0, 1.0),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
@settings(max_examples=25, deadline=None)
def test_shape_dtype_and_gradients(
    kind: str,
    height: int,
    width: int,
    batch: int,
    channels: tuple[int, int],
    grid: int,
    high_pass: str,
    cutoff: float,
    dtype: torch.dtype,
    scale: float,
) -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(
        *channels,
        options=FAMOptions(filter=kind, grid=grid, high_pass=high_pass, cutoff=cutoff),
        size=(height, width) if kind == "dense" else None,
    )
    x = (scale * torch.randn(batch, channels[0], height, width)).to(dtype).requires_grad_()
    out = fam(x)
    assert out.shape == (batch, channels[1], height, width)
    assert out.dtype == dtype
    assert out.isfinite().all()
    out.float().square().mean().backward()
    gradients = {"x": x.grad, **{name: p.grad for name, p in fam.named_parameters()}}
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    assert x.grad.dtype == dtype and x.grad.any()
