"""What is drawn of a filter is that filter, at the right frequencies."""

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from fam_det.core import FrequencyAttention
from fam_det.report.filters import high_pass_plane, magnitude, read_filters
from fam_det.report.plots import extent, plot_filters, plot_gammas, plot_learning_curves
from fam_det.report.runs import read_run


@pytest.mark.parametrize("height", [8, 7])
@pytest.mark.parametrize("kind", ["dense", "banded", "separable"])
def test_magnitude_is_that_of_the_impulse_response(kind: str, height: int) -> None:
    # with the local branch off, the response to an impulse in channel c has the spectrum K[:, c]
    fam = FrequencyAttention(2, 3, size=height, filter=kind, grid=4, high_pass="none")
    with torch.no_grad():
        fam.gamma_global.fill_(1.0)
        fam.gamma_local.fill_(0.0)
    expected = torch.zeros(height, height)
    for channel in range(2):
        impulse = torch.zeros(1, 2, height, height)
        impulse[0, channel, 0, 0] = 1.0
        spectrum = torch.fft.fft2(fam(impulse)[0].detach())
        expected += spectrum.abs().mean(0) / 2
    state = {f"distiller.fam.{name}": value for name, value in fam.state_dict().items()}
    (module,) = read_filters(state, kind)
    torch.testing.assert_close(
        magnitude(module, height), torch.fft.fftshift(expected), rtol=1e-4, atol=1e-6
    )


def test_high_pass_plane_is_centred_and_cut_at_its_cutoff() -> None:
    plane = high_pass_plane("ideal", 8, 0.5, 2)
    # zero frequency at (4, 4); |u| < 0.5 Nyquist are the frequencies -1, 0, 1 of -4..3
    expected = torch.ones(8, 8)
    expected[3:6, 3:6] = 0.0
    assert torch.equal(plane, expected)


def test_zero_frequency_is_in_the_middle_of_its_cell() -> None:
    left, right, bottom, top = extent(8)
    cell = (right - left) / 8
    assert left + 4.5 * cell == 0.0
    assert top + 4.5 * (bottom - top) / 8 == 0.0


def test_pictures_are_drawn(make_run: Any, tmp_path: Path) -> None:
    run, alone = read_run(make_run("a")), read_run(make_run("b", distiller=""))
    files = [tmp_path / f"{name}.png" for name in ("curves", "gammas", "filters")]
    assert plot_learning_curves([[run], [alone]], files[0])
    assert plot_gammas(run, files[1])
    assert plot_filters(run, files[2])
    for file in files:
        picture = cv2.imread(str(file))
        assert picture is not None
        assert picture.std() > 5
    assert not plot_gammas(alone, tmp_path / "none.png")
    assert not plot_filters(alone, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
