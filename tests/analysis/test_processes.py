"""One process in a folder at a time."""

from pathlib import Path

import pytest

from fam_det.analysis.processes import claimed


def test_a_second_claim_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    second = claimed(tmp_path / "output")
    with claimed(tmp_path / "output"), pytest.raises(BlockingIOError):
        second.__enter__()
    with claimed(tmp_path / "output"):
        assert (tmp_path / "output").is_dir()
