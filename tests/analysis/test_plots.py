"""What is drawn of a filter is that filter, at the right frequencies; pictures are not blank."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from fam_det.analysis.checkpoint import extent, high_pass_edge, read_filters
from fam_det.analysis.plots import method_colour, plot_speed
from fam_det.analysis.results import Results
from fam_det.analysis.rows import build_rows
from fam_det.analysis.run_plots import (
    describe_spread,
    plot_each_gamma,
    plot_filters,
    plot_gammas,
    plot_learning_curves,
)
from fam_det.analysis.runs import read_run
from fam_det.analysis.study import load_study
from fam_det.analysis.summary import summarise
from fam_det.analysis.tables import gamma_cells
from fam_det.core import FAMOptions, FrequencyAttention
from fam_det.core.high_pass import high_pass_response
from fam_det.core.kernels.spectrum import full_plane
from fam_det.training.filter_images import SEPARABLE_SIZE, magnitude


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("dense", 8),
        ("dense", 7),
        ("dense", 1),
        ("pooled", 4),
        ("banded", 4),
        ("separable", SEPARABLE_SIZE),
    ],
)
def test_magnitude_is_that_of_the_spectrum_applied(kind: str, shown: int) -> None:
    torch.manual_seed(0)
    fam = FrequencyAttention(2, 3, FAMOptions(filter=kind, grid=4), size=shown)
    if kind == "separable":
        torch.nn.init.normal_(fam.filter.gain)  # type: ignore[arg-type]
    half = fam.filter.spectrum(shown, shown)  # type: ignore[operator]
    plane = full_plane(half.detach().abs().mean((-2, -1)), shown)
    expected = torch.fft.fftshift(plane)
    state = {f"distiller.a.{name}": value for name, value in fam.state_dict().items()}
    (module,) = read_filters(state, kind)
    torch.testing.assert_close(magnitude(module), expected)


@pytest.mark.parametrize("size", [8, 7])
def test_magnitude_is_that_of_the_impulse_response(size: int) -> None:
    # with the local branch off, the response to an impulse in channel c has the spectrum K[:, c]
    fam = FrequencyAttention(2, 3, FAMOptions(high_pass="none"), size=size)
    with torch.no_grad():
        fam.gamma_global.fill_(1.0)
        fam.gamma_local.fill_(0.0)
        impulses = torch.zeros(2, 2, size, size)
        impulses[range(2), range(2), 0, 0] = 1.0
        spectra = torch.fft.fft2(fam(impulses))  # (c, C_out, H, W)
    (module,) = read_filters({f"a.{k}": v for k, v in fam.state_dict().items()}, "dense")
    expected = torch.fft.fftshift(spectra.abs().mean((0, 1)))
    torch.testing.assert_close(magnitude(module), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [8, 7])
def test_zero_frequency_is_in_the_middle_of_its_cell(size: int) -> None:
    left, right, bottom, top = extent(size, size)
    assert left + (size // 2 + 0.5) * (right - left) / size == pytest.approx(0.0)
    assert top + (size // 2 + 0.5) * (bottom - top) / size == pytest.approx(0.0)
    assert right - left == pytest.approx(2.0)  # from -Nyquist to Nyquist


@pytest.mark.parametrize("kind", ["ideal", "gaussian", "butterworth"])
def test_edge_is_where_the_response_crosses_a_half(kind: str) -> None:
    edge = high_pass_edge({"HIGH_PASS": kind, "CUTOFF": 0.3})
    assert edge is not None
    response = high_pass_response(kind, 1, 2000, cutoff=0.3)[0]  # along one axis, Nyquist at 1000
    first = int((response >= 0.5).nonzero()[0])
    assert first / 1000 == pytest.approx(edge[1], abs=0.001)
    assert edge[0] == ("box" if kind == "ideal" else "circle")


@pytest.mark.parametrize(("kind", "cutoff"), [("none", 0.1), ("ideal", 0.0)])
def test_filter_that_passes_everything_has_no_edge(kind: str, cutoff: float) -> None:
    assert high_pass_edge({"HIGH_PASS": kind, "CUTOFF": cutoff}) is None


def test_pictures_are_drawn(make_run: Any, tmp_path: Path) -> None:
    folders = [make_run("a", 1), make_run("b", 2), make_run("c", MODEL__DISTILLER__NAME="")]
    rows = build_rows([read_run(folder) for folder in folders])
    files = [tmp_path / f"{name}.png" for name in ("curves", "gammas", "filters")]
    assert plot_learning_curves(rows, files[0])
    assert plot_gammas(rows[0], files[1])
    assert plot_filters(rows[0], files[2])
    for file in files:
        picture = cv2.imread(str(file))
        assert picture is not None and picture.std() > 5
    nothing = tmp_path / "nothing.png"
    assert not plot_gammas(rows[1], nothing)
    assert not plot_filters(rows[1], nothing)
    assert not nothing.exists()


@pytest.mark.parametrize(("branches", "count"), [(["global"], 1), (["global", "local"], 2)])
def test_a_branch_that_is_off_has_no_plot(make_run: Any, branches: list[str], count: int) -> None:
    (row,) = build_rows([read_run(make_run("a", MODEL__DISTILLER__FAM__BRANCHES=branches))])
    assert [caption[:6] for caption, _ in plot_each_gamma(row)] == ["gamma1", "gamma2"][:count]
    (cells, *_) = gamma_cells([row])
    assert cells["stage1"] == ("2.50 / 0.25" if count == 2 else "2.50 / off")


def test_a_filter_says_how_far_from_flat_it_is() -> None:
    # mean 1; the farthest value is 0.005 from it
    plane = torch.tensor([[0.995, 1.001], [1.001, 1.003]])
    assert describe_spread(plane) == "0.995 to 1.003, within 0.5 % of the mean"


def test_methods_are_drawn_against_the_time_of_their_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        {"name": name, "config": "student.yaml"} for name in ("alone, 2x", "FAM, 2x", "FAM, 9x")
    ]
    node = {"tool": "train_net", "metric": "bbox/AP", "seeds": [1, 2], "baseline": "alone, 2x"}
    node |= {"runs": runs, "milliseconds": {"2x": 20, "9x": 5.5}}
    node |= {"teacher": {"milliseconds": 40, "score": 54.8}}
    (tmp_path / "student.yaml").write_text("SEED: 1\n")
    (tmp_path / "speed.yaml").write_text(yaml.safe_dump(node))
    monkeypatch.chdir(tmp_path)
    study, drawn = load_study(Path("speed.yaml")), {}
    rows = summarise(study, Results(tmp_path))
    rows = [replace(row, mean=30.0 + i, std=1.0) for i, row in enumerate(rows)]

    def keep(figure: Figure, *_: Any, **__: Any) -> None:
        (axes,) = figure.axes
        handles, labels = axes.get_legend_handles_labels()
        for handle, label in zip(handles, labels, strict=True):
            line = handle[0] if isinstance(handle, ErrorbarContainer) else handle
            drawn[label] = [tuple(map(float, point)) for point in line.get_xydata()]

    monkeypatch.setattr(Figure, "savefig", keep)
    plot_speed(study, rows, tmp_path / "speed.png")
    assert drawn == {
        "teacher": [(40.0, 54.8)],
        "alone": [(20.0, 30.0)],
        "FAM": [(5.5, 32.0), (20.0, 31.0)],
    }


def test_colours_belong_to_methods() -> None:
    assert method_colour("FAM-KD") == method_colour("FAM-KD, butterworth HPF")
    assert method_colour("FAM-KD") != method_colour("ReviewKD")
    assert method_colour("Mine") == method_colour("Mine")
