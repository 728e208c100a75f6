"""Maps on fewer cells, beside the spectrum of the mirrored map and the mean of areas."""

import math

import pytest
import torch
import torch.nn.functional as F

from fam_det.core.resample import resample


def maps(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).double()


def mirrored(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.flip(-1)], -1)


def sinc_row(x: torch.Tensor, count: int, scale: float) -> torch.Tensor:
    """Low-pass by cropping the FFT of a mirrored row, then periodic sinc interpolation, naively."""
    spectrum = torch.fft.fft(mirrored(x))
    period, limit = len(spectrum), len(x) / scale  # cycles of the mirrored row below Nyquist
    out = []
    for i in range(count):
        at = scale * (i + 0.5) - 0.5
        total = 0.0
        for k in range(period):
            cycles = k if k <= period // 2 else k - period
            if abs(cycles) < limit - 1e-9:
                angle = 2 * math.pi * cycles * at / period
                total += (spectrum[k] * complex(math.cos(angle), math.sin(angle))).real.item()
        out.append(total / period)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize(("cells", "count", "scale"), [(8, 4, 2.0), (9, 6, 1.5), (7, 4, 2.0)])
def test_cropping_the_spectrum_is_sinc_interpolation(cells: int, count: int, scale: float) -> None:
    x = maps(cells, cells)
    out = resample(x, (count, count), scale)
    rows = torch.stack([sinc_row(r, count, scale) for r in x.flatten(0, 2)])
    rows = rows.view(2, 3, cells, count).transpose(2, 3)
    both = torch.stack([sinc_row(c, count, scale) for c in rows.flatten(0, 2)])
    expected = both.view(2, 3, count, count).transpose(2, 3)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_a_band_limited_map_is_only_sampled() -> None:
    """Cosines below the Nyquist frequency of the result, at the centres of its cells."""

    def wave(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:  # in shares of the map
        rows = 2 + torch.cos(math.pi * 3 * y) - 0.5 * torch.cos(math.pi * 5 * y)
        return rows[:, None] * (1 + torch.cos(math.pi * 4 * x))[None]

    def centres(count: int) -> torch.Tensor:
        return (torch.arange(count).double() + 0.5) / count

    large, small = (wave(centres(h), centres(w))[None, None] for h, w in ((18, 30), (6, 10)))
    torch.testing.assert_close(resample(large, (6, 10), 3.0), small, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["spectrum", "area"])
def test_a_constant_stays_and_a_scale_of_1_changes_nothing(method: str) -> None:
    ones = torch.ones(1, 1, 7, 10)
    # The last cells reach beyond the source.
    torch.testing.assert_close(resample(ones, (4, 5), 2.0, method), torch.ones(1, 1, 4, 5))
    x = maps(5, 6)
    torch.testing.assert_close(resample(x, (5, 6), 1.0, method), x)


def test_areas_are_average_pooling() -> None:
    x = maps(8, 6)
    torch.testing.assert_close(resample(x, (4, 3), 2.0, "area"), F.avg_pool2d(x, 2))
    # Cell 1 of scale 1.5 covers half of cell 1 and all of cell 2.
    row = torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 1, 3).expand(1, 1, 3, 3)
    expected = torch.tensor([(1 + 0.5 * 2) / 1.5, (0.5 * 2 + 6) / 1.5])
    torch.testing.assert_close(resample(row, (2, 2), 1.5, "area")[0, 0, 0], expected)


def test_a_scale_below_1_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"scale: got 0.5, expected 1 or more"):
        resample(maps(4, 4), (8, 8), 0.5)
