"""The study's figures against numbers worked by hand."""

import pytest

from fam_det.analysis.summary import difference


def test_interval_is_the_blood_cells_of_the_results() -> None:
    """docs/results.md: differences 8.9, 6.6, 7.1 to 35.3, 34.3, 36.5."""
    alone = {2: 35.3, 3: 34.3, 4: 36.5}
    taught = {2: 44.2, 3: 40.9, 4: 43.6}
    found = difference(taught, alone)
    assert found is not None and found.low is not None and found.high is not None
    # mean (8.9 + 6.6 + 7.1) / 3 = 22.6 / 3; deviations 1.3667, -0.9333, -0.4333, squares
    # 1.8678 + 0.8711 + 0.1878 = 2.9267, / 2 = 1.4633, root 1.2097, / root 3 = 0.6984;
    # t(0.975, 2) = 4.3027: half the interval 3.0051
    assert found.mean == pytest.approx(22.6 / 3)
    assert found.high - found.mean == pytest.approx(3.0051, abs=1e-3)
    assert found.mean - found.low == pytest.approx(3.0051, abs=1e-3)


def test_interval_of_five_pairs() -> None:
    # differences 1 to 5: mean 3, std root 2.5, t(0.975, 4) = 2.7764: 2.7764 * root 0.5 = 1.9632
    found = difference({seed: 10.0 + seed for seed in range(1, 6)}, dict.fromkeys(range(1, 6), 10))
    assert found is not None
    assert found.format() == "+3.0 (+1.0 to +5.0)"
    assert found.low == pytest.approx(3 - 1.9632, abs=1e-4)


def test_pairs_are_of_common_seeds() -> None:
    found = difference({1: 5.0, 2: 7.0}, {2: 4.0, 3: 0.0})
    assert found is not None
    assert (found.mean, found.low, found.high, found.seeds) == (3.0, None, None, 1)
    assert found.format() == "+3.0"
    assert difference({1: 5.0}, {2: 4.0}) is None
