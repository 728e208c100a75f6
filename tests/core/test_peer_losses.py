"""Losses of other methods against loops over their formulas."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fam_det.core.losses import pearson_loss
from fam_det.core.peer_losses import (
    channel_wise_loss,
    haar_bands,
    haar_pyramid,
    imitation_loss,
    wavelet_band_loss,
)

SIZES = [(3, 4), (2, 5)]
BAND_SIZES = [(4, 6), (5, 3), (1, 1), (1, 8)]


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return x.requires_grad_(), 3 * y + 1


def cells(maps: Tensor, image: int, channel: int) -> list[float]:
    h, w = SIZES[image]
    return maps.detach()[image, channel, :h, :w].flatten().tolist()


def test_pearson_loss_is_one_minus_the_correlation_of_each_channel() -> None:
    x, y = pair()
    correlations = [
        np.corrcoef(
            cells(x, 0, c) + cells(x, 1, c),
            cells(y, 0, c) + cells(y, 1, c),
        )[0, 1]
        for c in range(3)
    ]
    got = pearson_loss(x, y, SIZES)
    assert got.item() == pytest.approx(1 - np.mean(correlations), abs=1e-5)


def test_channel_wise_loss_is_the_divergence_of_softmaxes_overvalid_cells() -> None:
    x, y = pair()
    temperature, total = 2.5, 0.0
    for image in range(2):
        for channel in range(3):
            q, p = (
                [math.exp(v / temperature) for v in cells(maps, image, channel)] for maps in (x, y)
            )
            q, p = ([v / sum(values) for v in values] for values in (q, p))
            total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    got = channel_wise_loss(x, y, SIZES, temperature=temperature)
    assert got.item() == pytest.approx(temperature**2 * total / (2 * 3), rel=1e-12)


def test_wavelet_band_loss_adds_the_mean_difference_of_three_levels() -> None:
    x, y = pair()
    expected = []
    for image, (h, w) in enumerate(SIZES):
        maps, levels = [m.detach()[image, :, :h, :w] for m in (x, y)], []
        for _ in range(3):
            (own, own_high), (other, other_high) = (haar_bands(m) for m in maps)
            maps = [own, other]
            levels.append(np.mean(np.abs(own_high.numpy() - other_high.numpy())))
        expected.append(sum(levels))
    assert wavelet_band_loss(x, y, SIZES).item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_wavelet_band_loss_is_blind_to_a_constant_on_even_maps() -> None:
    x, _ = pair()
    maps = x.detach()[..., :4].repeat(1, 1, 2, 2)  # 8 x 8: even at all three levels
    assert wavelet_band_loss(maps + 5, maps).item() == pytest.approx(0.0, abs=1e-12)


def test_imitation_loss_is_half_the_squared_distance_of_the_cells_that_count() -> None:
    x, y = pair()
    near = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)) < 0.4
    total = 0.0
    for n, i, j in near.nonzero().tolist():
        total += sum((x[n, c, i, j] - y[n, c, i, j]).item() ** 2 for c in range(3))
    got = imitation_loss(x, y, near)
    assert got.item() == pytest.approx(total / (2 * int(near.sum())), rel=1e-12)
    got.backward()
    assert x.grad is not None
    assert torch.equal(x.grad.any(1), near)


def test_imitation_loss_without_a_cell_is_zero() -> None:
    x, y = pair()
    loss = imitation_loss(x, y, torch.zeros(2, 4, 5, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("loss", [pearson_loss, channel_wise_loss, wavelet_band_loss])
def test_what_the_losses_have_in_common(loss) -> None:
    x, y = pair()
    y.requires_grad_()
    assert loss(x, x.detach(), SIZES).item() == pytest.approx(0.0, abs=1e-5)
    loss(x, y, SIZES).backward()
    assert y.grad is None
    assert x.grad is not None
    assert not x.grad[0, :, 3:].any()  # padding
    assert not x.grad[1, :, 2:].any()
    assert torch.autograd.gradcheck(lambda m: loss(m, y.detach(), SIZES), [x])
    assert loss(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="teacher: got a map of shape"):
        loss(x, y[:, :2])


def test_pearson_loss_sees_neither_scale_nor_shift() -> None:
    x, y = pair()
    assert pearson_loss(x, y).item() == pytest.approx(pearson_loss(5 * x - 2, y).item(), abs=1e-5)
    assert pearson_loss(x, -x.detach()).item() == pytest.approx(2.0, abs=1e-5)


def test_a_constant_channel_has_finite_gradients() -> None:
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    pearson_loss(x, torch.randn(1, 2, 3, 3)).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def random_maps(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", BAND_SIZES)
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


@pytest.mark.parametrize("size", BAND_SIZES)
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
