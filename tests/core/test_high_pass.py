"""Responses of the high-pass filters against loops over the full plane and hand-worked values."""

import math

import pytest
import torch

from fam_det.core import high_pass_response
from tests.core.core_reference import high_pass_full

KINDS = ["none", "ideal", "gaussian", "butterworth"]
FILTERING = ["ideal", "gaussian", "butterworth"]
SIZES = [(1, 1), (1, 2), (3, 1), (2, 2), (4, 4), (5, 7), (8, 8), (9, 12), (20, 21), (60, 40)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.3, 0.5, 1.0])
def test_response_equals_the_left_half_of_the_full_plane_loops(kind, size, cutoff) -> None:
    h = high_pass_response(kind, *size, cutoff=cutoff, order=3, dtype=torch.float64)
    expected = high_pass_full(kind, *size, cutoff, order=3)[:, : size[1] // 2 + 1]
    assert h.shape == (size[0], size[1] // 2 + 1)
    torch.testing.assert_close(h, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", FILTERING)
@pytest.mark.parametrize("cutoff", [1e-3, 0.1, 0.5, 1.0])
def test_dc_is_removed(kind, cutoff) -> None:
    assert high_pass_response(kind, 6, 5, cutoff=cutoff)[0, 0] == 0.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutoff", [0.0, 0.1, 1.0])
def test_a_1x1_map_is_never_filtered(kind, cutoff) -> None:
    assert high_pass_response(kind, 1, 1, cutoff=cutoff).tolist() == [[1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_cutoff_zero_passes_everything(kind) -> None:
    assert torch.equal(high_pass_response(kind, 5, 6, cutoff=0.0), torch.ones(5, 4))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_butterworth_is_one_half_on_the_cutoff_at_any_order(order) -> None:
    h = high_pass_response("butterworth", 16, 16, cutoff=0.25, order=order, dtype=torch.float64)
    # bin 2 of 16: 2 * 2 / 16 = 0.25 of Nyquist
    assert h[2, 0].item() == pytest.approx(0.5, abs=1e-15)
    assert h[0, 2].item() == pytest.approx(0.5, abs=1e-15)
    assert h[-2, 0].item() == pytest.approx(0.5, abs=1e-15)


def test_gaussian_is_one_minus_exp_minus_half_on_the_cutoff() -> None:
    h = high_pass_response("gaussian", 16, 16, cutoff=0.25, dtype=torch.float64)
    assert h[2, 0].item() == pytest.approx(1 - math.exp(-0.5), abs=1e-15)
    assert h[0, 2].item() == pytest.approx(1 - math.exp(-0.5), abs=1e-15)


def test_ideal_passes_the_cutoff_and_zeroes_below_it() -> None:
    h = high_pass_response("ideal", 16, 16, cutoff=0.25)
    # bins -1, 0, 1 (up to 0.125) are below, bin 2 (0.25) is on the cut-off
    expected = torch.ones(16, 9)
    expected[[0, 1, 15], :2] = 0
    assert torch.equal(h, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tenths", range(1, 11))
@pytest.mark.parametrize("n", [20, 40, 60, 100])
def test_ideal_passes_a_frequency_equal_to_a_decimal_cutoff(tenths, n, dtype) -> None:
    h = high_pass_response("ideal", n, n, cutoff=tenths / 10, dtype=dtype)
    k = n * tenths // 20  # 2 k / n = tenths / 10
    assert h[k, 0] == h[0, k] == h[-k, 0] == 1
    assert h[k - 1, 0] == h[0, k - 1] == h[1 - k, 0] == h[k - 1, k - 1] == 0


def test_ideal_cutoff_is_a_box_not_a_disc() -> None:
    h = high_pass_response("ideal", 16, 16, cutoff=0.25)
    # bin (1, 1) lies at distance 0.177; at cut-off 0.15 it is outside a disc but inside the box
    assert high_pass_response("ideal", 16, 16, cutoff=0.15)[1, 1] == 0
    assert h[1, 2] == 1  # one axis on the cut-off is enough to pass


def test_default_ideal_filter_removes_dc_alone_from_maps_up_to_20_pixels() -> None:
    for n in (2, 7, 8, 16, 19, 20):
        h = high_pass_response("ideal", n, n)
        assert h[0, 0] == 0
        assert h.sum() == h.numel() - 1
    assert (high_pass_response("ideal", 21, 21) == 0).sum() == 3 * 2  # rows -1, 0, 1; columns 0, 1


def test_nyquist_is_at_frequency_one_on_each_axis() -> None:
    d = math.sqrt(2)
    gaussian = high_pass_response("gaussian", 4, 6, cutoff=0.5, dtype=torch.float64)
    assert gaussian[2, 0].item() == pytest.approx(1 - math.exp(-2.0), abs=1e-15)
    assert gaussian[0, 3].item() == pytest.approx(1 - math.exp(-2.0), abs=1e-15)
    assert gaussian[2, 3].item() == pytest.approx(1 - math.exp(-4.0), abs=1e-15)
    butterworth = high_pass_response("butterworth", 4, 6, cutoff=0.5, order=1, dtype=torch.float64)
    assert butterworth[2, 0].item() == pytest.approx(1 / (1 + 0.25), abs=1e-15)
    assert butterworth[2, 3].item() == pytest.approx(1 / (1 + (0.5 / d) ** 2), abs=1e-15)
    # even at cut-off 1 the ideal filter lets the Nyquist frequency pass
    ideal = high_pass_response("ideal", 4, 6, cutoff=1.0)
    assert ideal[2].tolist() == [1.0] * 4
    assert ideal[:, 3].tolist() == [1.0] * 4
    assert ideal[[0, 1, 3], :3].sum() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_response_is_symmetric_under_u_to_minus_u(kind, size) -> None:
    h = high_pass_response(kind, *size, cutoff=0.3)
    mirrored = h[[-k % size[0] for k in range(size[0])]]
    assert torch.equal(h, mirrored)


@pytest.mark.parametrize("kind", KINDS)
def test_transposing_the_map_transposes_the_response(kind) -> None:
    tall = high_pass_response(kind, 12, 7, cutoff=0.4, dtype=torch.float64)
    wide = high_pass_response(kind, 7, 12, cutoff=0.4, dtype=torch.float64)
    torch.testing.assert_close(tall[:7, :4], wide[:4, :7].T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", FILTERING)
def test_a_frequency_has_one_response_at_every_size(kind) -> None:
    small = high_pass_response(kind, 8, 8, cutoff=0.3, dtype=torch.float64)
    large = high_pass_response(kind, 24, 24, cutoff=0.3, dtype=torch.float64)
    rows = [3 * k % 24 for k in (0, 1, 2, 3, 4, -3, -2, -1)]
    torch.testing.assert_close(large[rows][:, 0::3], small, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_values_stay_within_zero_and_one_and_grow_with_frequency(kind) -> None:
    h = high_pass_response(kind, 33, 32, cutoff=0.4)
    assert h.min() >= 0
    assert h.max() <= 1
    assert (h[:17].diff(dim=0) >= 0).all()
    assert (h.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("kind", FILTERING)
def test_tiny_cutoffs_and_large_orders_stay_finite(kind) -> None:
    for cutoff in (1e-30, 1e-6, 1.0):
        for order in (1, 50):
            h = high_pass_response(kind, 9, 9, cutoff=cutoff, order=order)
            assert torch.isfinite(h).all()
            assert h[0, 0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_response_has_the_dtype_asked_for(kind, dtype) -> None:
    assert high_pass_response(kind, 4, 4, dtype=dtype, device="cpu").dtype == dtype
    assert high_pass_response(kind, 4, 4).dtype == torch.float32


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="(?s)lowpass.*gaussian"):
        high_pass_response("lowpass", 4, 4)
    for cutoff in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"cutoff.*(-0\.1|1\.1|nan)"):
            high_pass_response("ideal", 4, 4, cutoff=cutoff)
    with pytest.raises(ValueError, match="order.*0"):
        high_pass_response("butterworth", 4, 4, order=0)
