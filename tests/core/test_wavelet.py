"""The Haar transform against loops over its blocks, and its invariants."""

import pytest
import torch

from fam_det.core.peer_losses import haar_bands, haar_pyramid

SIZES = [(4, 6), (5, 3), (1, 1), (1, 8)]


def random_maps(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_bands_are_sums_and_differences_of_two_by_two_blocks(size: tuple[int, int]) -> None:
    x = random_maps(size)
    low, high = haar_bands(x)
    height, width = size
    for i in range(-(-height // 2)):
        for j in range(-(-width // 2)):

            def cell(row: int, column: int) -> torch.Tensor:
                inside = row < height and column < width
                return x[..., row, column] if inside else torch.zeros(2, 3, dtype=torch.float64)

            a, b = cell(2 * i, 2 * j), cell(2 * i, 2 * j + 1)
            c, d = cell(2 * i + 1, 2 * j), cell(2 * i + 1, 2 * j + 1)
            torch.testing.assert_close(low[..., i, j], (a + b + c + d) / 2)
            expected = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], -1) / 2
            torch.testing.assert_close(high[..., i, j], expected)


@pytest.mark.parametrize("size", SIZES)
def test_all_bands_together_hold_the_energy(size: tuple[int, int]) -> None:
    x = random_maps(size)
    low, high = haar_bands(x)
    torch.testing.assert_close(low.square().sum() + high.square().sum(), x.square().sum())


def test_a_flat_map_has_no_high_band_and_a_pyramid_goes_fine_to_coarse() -> None:
    bands = haar_pyramid(torch.full((1, 2, 16, 8), 3.0), 3)
    assert [tuple(band.shape) for band in bands] == [
        (1, 2, 3, 8, 4),
        (1, 2, 3, 4, 2),
        (1, 2, 3, 2, 1),
    ]
    assert not any(band.any() for band in bands)


def test_coarse_stripes_lie_in_the_coarse_band() -> None:
    """Rows in pairs of the same value differ only from pair to pair."""
    x = torch.tensor([1.0, 1.0, -1.0, -1.0] * 2).view(1, 1, 8, 1).expand(1, 1, 8, 8)
    fine, coarse = haar_pyramid(x, 2)
    assert not fine.any()
    assert coarse[:, :, 0].abs().min() > 0 and not coarse[:, :, 1:].any()
