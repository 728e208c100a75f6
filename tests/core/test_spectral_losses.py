"""The correlation in bands of frequencies, against a loop over the full spectrum."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fam_det.core.losses import BAND_EDGES, pearson_loss, spectral_correlation_loss

SIZES = [(6, 7), (5, 8), (6, 7)]


def pair(height: int, width: int, n: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(n, 2, height, width, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return x.requires_grad_(), 3 * y + 1


def band_of(row: int, column: int, height: int, width: int) -> int:
    """Index of the band of a bin of the full plane, by counting the edges that it reaches."""
    u = min(row, height - row) / (height / 2)
    v = min(column, width - column) / (width / 2)
    return sum(max(u, v) >= edge for edge in BAND_EDGES)


def by_loops(x: Tensor, y: Tensor, sizes: list[tuple[int, int]]) -> float:
    """One minus the mean correlation, bin by bin of the full spectrum."""
    correlations = []
    for c in range(x.shape[1]):
        images = [
            [m.detach().numpy()[i, c, :h, :w] for i, (h, w) in enumerate(sizes)] for m in (x, y)
        ]
        means = [np.concatenate([i.ravel() for i in maps]).mean() for maps in images]
        sums = np.zeros((len(BAND_EDGES) + 1, 3))
        for (h, w), a, b in zip(sizes, *images, strict=True):
            fa, fb = (np.fft.fft2(m - mean) for m, mean in zip((a, b), means, strict=True))
            for r in range(h):
                for s in range(w):
                    p, q = fa[r, s], fb[r, s]
                    products = abs(p) ** 2, abs(q) ** 2, (p * q.conjugate()).real
                    sums[band_of(r, s, h, w)] += np.array(products) / (h * w)
        correlations += [xy / (xx * yy) ** 0.5 for xx, yy, xy in sums if xx > 0]
    return 1.0 - float(np.mean(correlations))


@pytest.mark.parametrize("size", [(16, 16), (9, 12), (3, 4), (1, 5), (1, 1)])
def test_it_is_one_minus_the_correlation_of_every_channel_and_band(size: tuple[int, int]) -> None:
    x, y = pair(*size)
    want = by_loops(x, y, [size] * 3)
    assert spectral_correlation_loss(x, y).item() == pytest.approx(want, abs=1e-5)


def test_padding_does_not_count() -> None:
    x, y = pair(6, 8)
    want = by_loops(x, y, SIZES)
    assert spectral_correlation_loss(x, y, SIZES).item() == pytest.approx(want, abs=1e-5)


def test_with_a_single_band_it_equals_the_loss_of_pkd() -> None:
    x, y = pair(6, 8)
    got = spectral_correlation_loss(x, y, SIZES, edges=())
    want = pearson_loss(x, y, SIZES)
    assert got.item() == pytest.approx(want.item(), rel=1e-6)
    (gradient,), (other,) = (torch.autograd.grad(loss, x) for loss in (got, want))
    assert torch.allclose(gradient, other, atol=1e-9)


def test_it_is_zero_for_maps_that_differ_by_a_positive_factor_a_band_and_an_offset() -> None:
    x, _ = pair(16, 16)
    low = torch.fft.rfft2(x)
    u = torch.fft.fftfreq(16).abs()[:, None]
    low = torch.where((u < 0.0625) & (torch.fft.rfftfreq(16) < 0.0625), low, torch.zeros(()))
    # the lowest band is three times as strong
    other = x + 2 * torch.fft.irfft2(low, s=(16, 16)) + 5
    assert spectral_correlation_loss(x, other).item() == pytest.approx(0, abs=1e-6)
    assert pearson_loss(x, other).item() > 1e-3


@pytest.mark.parametrize("sizes", [None, [(5, 6), (4, 5)]])
def test_the_teacher_takes_no_gradient_and_the_students_is_right(
    sizes: list[tuple[int, int]] | None,
) -> None:
    x, y = pair(5, 6, n=2)
    y.requires_grad_()
    spectral_correlation_loss(x, y, sizes).backward()
    assert y.grad is None
    assert torch.autograd.gradcheck(lambda m: spectral_correlation_loss(m, y, sizes), (x,))


def test_constant_maps_give_a_finite_loss_and_gradient() -> None:
    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    loss = spectral_correlation_loss(x, torch.randn(2, 3, 4, 4))
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("sizes", [SIZES[:2], [(6, 9), *SIZES[1:]]])
def test_sizes_of_other_images_are_an_error(sizes: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="valid_sizes: got"):
        spectral_correlation_loss(*pair(6, 8), sizes)
