"""Fixtures of the demo's tests."""

from pathlib import Path

import pytest

from tools.demo.digits import DigitsDemo


@pytest.fixture
def demo(tmp_path: Path) -> DigitsDemo:
    """A demo with the configs of this repository."""
    return DigitsDemo(Path(__file__).resolve().parents[4], tmp_path / "out")
