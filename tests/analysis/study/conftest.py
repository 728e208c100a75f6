"""Fixtures of the study's tests."""

from pathlib import Path

import pytest

from tests.analysis.study.small_study import STUDY, Studio


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """A study of eight trainings."""
    (tmp_path / "small.yaml").write_text(STUDY)
    for name in ("teacher", "alone", "taught"):
        (tmp_path / f"{name}.yaml").write_text("MODEL: {DEVICE: cpu}\n")
    return Studio(tmp_path)
