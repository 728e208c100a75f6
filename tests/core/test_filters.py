"""The three storages of the global filter: what spectrum each stands for."""

import pytest
import torch
from torch import Tensor, nn

from fam_det.core import FAMOptions, FrequencyAttention
from tests.core.core_reference import applied_half, banded_half, full_from_half, separable_half

SIZES = [(1, 1), (1, 5), (4, 1), (2, 3), (4, 4), (5, 7), (8, 8), (9, 16), (13, 20), (25, 42)]
GRIDS = [2, 6, 8]


def make(kind: str, *, size: tuple[int, int] | None = None, grid: int = 8) -> FrequencyAttention:
    """A float64 module from 2 to 3 channels whose filter is drawn from a normal distribution."""
    torch.manual_seed(0)
    fam = FrequencyAttention(2, 3, FAMOptions(filter=kind, grid=grid), size=size).double()
    with torch.no_grad():
        for p in fam.parameters():
            p.normal_()
    return fam


def definition(fam: FrequencyAttention, kind: str, height: int, width: int) -> Tensor:
    if kind == "dense":
        return applied_half(fam.filter.weight, width)
    if kind == "banded":
        return banded_half(fam.filter.weight, height, width)
    return separable_half(fam.filter.gain, fam.filter.mix.weight.flatten(1), height, width)


@pytest.mark.parametrize("size", SIZES)
def test_dense_spectrum_is_the_hermitian_part_of_what_is_stored(size) -> None:
    fam = make("dense", size=size)
    assert fam.filter.weight.shape == (size[0], size[1] // 2 + 1, 2, 3, 2)
    spectrum = fam.filter.spectrum(*size)
    assert spectrum.dtype == torch.complex128
    expected = definition(fam, "dense", *size)
    torch.testing.assert_close(spectrum, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["banded", "separable"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_spectrum_equals_its_definition(kind, grid, size) -> None:
    fam = make(kind, grid=grid)
    spectrum = fam.filter.spectrum(*size)
    assert spectrum.shape == (size[0], size[1] // 2 + 1, 2, 3)
    expected = definition(fam, kind, *size)
    torch.testing.assert_close(spectrum, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("grid", [2, 6, 8])
def test_banded_ties_between_cells_go_to_the_even_cell_at_every_size(grid) -> None:
    fam = make("banded", grid=grid)
    with torch.no_grad():  # another real matrix in each column and mirrored pair of rows
        fam.filter.weight.zero_()
        for r in range(grid):
            for c in range(grid // 2 + 1):
                fam.filter.weight[r, c, ..., 0] = 100 * min(r, grid - r) + c
    for n in range(1, 100):
        for size in ((n, 1), (1, n)):
            expected = definition(fam, "banded", *size)
            torch.testing.assert_close(fam.filter.spectrum(*size), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "banded", "separable"])
@pytest.mark.parametrize("size", SIZES)
def test_spectrum_is_that_of_a_real_kernel(kind, size) -> None:
    height, width = size
    half = make(kind, size=size).filter.spectrum(height, width)
    full = full_from_half(half, width)
    own_mirrors = [0] + ([width // 2] if width % 2 == 0 else [])
    for m in own_mirrors:
        mirrored = half[[-k % height for k in range(height)], m].conj()
        torch.testing.assert_close(half[:, m], mirrored, rtol=0, atol=1e-14)
    kernel = torch.fft.ifft2(full, dim=(0, 1))
    assert kernel.imag.abs().max() < 1e-13


@pytest.mark.parametrize("grid", GRIDS)
def test_banded_equals_dense_on_a_map_of_grid_size(grid) -> None:
    banded = make("banded", grid=grid)
    dense = make("dense", size=(grid, grid))
    dense.load_state_dict(banded.state_dict())
    torch.testing.assert_close(
        banded.filter.spectrum(grid, grid), dense.filter.spectrum(grid, grid), rtol=0, atol=1e-15
    )
    x = torch.randn(2, 2, grid, grid, dtype=torch.float64)
    torch.testing.assert_close(banded(x), dense(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("grid", GRIDS)
def test_separable_equals_dense_with_a_product_filter_on_a_map_of_grid_size(grid) -> None:
    separable = make("separable", grid=grid)
    dense = make("dense", size=(grid, grid))
    gain, mix = separable.filter.gain, separable.filter.mix.weight.flatten(1)  # (O, I)
    with torch.no_grad():
        dense.filter.weight.copy_(gain[:, :, :, None, :] * mix.T[..., None])
        for name in ("local.weight", "local.bias", "gamma_global", "gamma_local"):
            dense.get_parameter(name).copy_(separable.get_parameter(name))
    x = torch.randn(2, 2, grid, grid, dtype=torch.float64)
    torch.testing.assert_close(separable(x), dense(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["banded", "separable"])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_normalised_frequency_has_one_matrix_at_every_size(kind, factor) -> None:
    fam = make(kind)
    height, width = 6 * factor, 8 * factor
    large = fam.filter.spectrum(height, width)
    small = fam.filter.spectrum(6, 8)
    rows = [factor * k % height for k in (0, 1, 2, -3, -2, -1)]
    torch.testing.assert_close(large[rows][:, ::factor], small, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["banded", "separable"])
def test_dc_and_nyquist_take_the_grid_corners_at_every_even_size(kind) -> None:
    fam = make(kind)
    corners = fam.filter.spectrum(8, 8)
    for height, width in [(2, 2), (4, 6), (10, 24)]:
        k = fam.filter.spectrum(height, width)
        for here, there in [((0, 0), (0, 0)), ((height // 2, width // 2), (4, 4))]:
            torch.testing.assert_close(k[here], corners[there], rtol=0, atol=1e-14)


def test_separable_is_linear_between_grid_points_and_wraps_around_in_the_rows() -> None:
    fam = make("separable", grid=2)
    with torch.no_grad():
        fam.filter.mix.weight.fill_(1.0)
        fam.filter.gain.zero_()
        fam.filter.gain[0, :, :, 0], fam.filter.gain[1, :, :, 0] = 1.0, 3.0
    # grid rows: 0 at DC, 1 at Nyquist; a quarter cycle is half way, up and down
    k = fam.filter.spectrum(8, 1)[:, 0, 0, 0].real
    expected = torch.tensor([1, 1.5, 2, 2.5, 3, 2.5, 2, 1.5], dtype=torch.float64)
    torch.testing.assert_close(k, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["dense", "banded"])
def test_initial_filter_is_the_half_spectrum_of_a_uniform_full_one(kind) -> None:
    torch.manual_seed(0)
    c_in, c_out, n = 4, 8, 16
    fam = FrequencyAttention(c_in, c_out, FAMOptions(filter=kind, grid=n), size=n)
    k = fam.filter.spectrum(n, n) * c_in * c_out
    # inside: the mean of two draws from U[0, 1), real; half their difference, imaginary
    inside = k[:, 1:-1]
    assert inside.real.min() >= 0
    assert inside.real.max() < 1
    assert inside.imag.abs().max() <= 0.5
    std = (1 / 24) ** 0.5  # sqrt(1/12 / 2)
    standard_error = std / inside.numel() ** 0.5
    assert abs(inside.real.mean() - 0.5) < 5 * standard_error
    assert abs(inside.imag.mean()) < 5 * standard_error
    assert inside.real.std().item() == pytest.approx(std, rel=0.05)
    assert inside.imag.std().item() == pytest.approx(std, rel=0.05)
    # the bins that are their own mirror keep the real part of one draw
    own = torch.stack([k[0, 0], k[n // 2, 0], k[0, n // 2], k[n // 2, n // 2]])
    assert own.imag.abs().max() < 1e-6
    assert own.real.std().item() == pytest.approx((1 / 12) ** 0.5, rel=0.25)
    # what is stored there is the draw itself, so that weight decay sees all of it
    stored = fam.filter.weight[:, [0, -1]] * c_in * c_out
    assert stored.min() >= 0
    assert stored.max() < 1
    assert stored[..., 1].mean().item() == pytest.approx(0.5, abs=0.05)


def test_filters_store_real_parameters_of_the_documented_shapes() -> None:
    shapes = {
        "dense": {"weight": (5, 4, 2, 3, 2)},
        "banded": {"weight": (6, 4, 2, 3, 2)},
        "separable": {"gain": (6, 4, 2, 2), "mix.weight": (3, 2, 1, 1)},
    }
    for kind, expected in shapes.items():
        fam = FrequencyAttention(2, 3, FAMOptions(filter=kind, grid=6), size=(5, 7))
        found = {name: tuple(p.shape) for name, p in fam.filter.named_parameters()}
        assert found == expected
        assert not any(t.is_complex() for t in [*fam.parameters(), *fam.buffers()])


def test_separable_mix_is_a_convolution_without_bias() -> None:
    mix = FrequencyAttention(2, 3, FAMOptions(filter="separable")).filter.mix
    assert isinstance(mix, nn.Conv2d)
    assert mix.bias is None


@pytest.mark.parametrize("kind", ["banded", "separable"])
@pytest.mark.parametrize("grid", [-2, 0, 1, 7])
def test_an_impossible_grid_raises_an_error_that_names_it(kind, grid) -> None:
    with pytest.raises(ValueError, match=f"grid.*{grid}"):
        FrequencyAttention(2, 3, FAMOptions(filter=kind, grid=grid))


def test_dense_spectrum_of_another_size_raises_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"(?s)size.*4.*5"):
        FrequencyAttention(2, 3, size=5).filter.spectrum(4, 5)
