"""Fixtures of the demo's tests."""

from pathlib import Path

import pytest

from tools.demo.detection import DetectionDemo
from tools.demo.scenes import DigitPool, SceneParams, load_digits


@pytest.fixture(scope="session")
def digits() -> DigitPool:
    """The real ones."""
    return load_digits()


@pytest.fixture(autouse=True)
def read_digits_once(digits: DigitPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes seconds."""
    monkeypatch.setattr("tools.demo.scenes.load_digits", lambda: digits)


@pytest.fixture
def few() -> SceneParams:
    """A small data set."""
    return SceneParams(train_images=5, val_images=3)


@pytest.fixture
def demo(tmp_path: Path, few: SceneParams) -> DetectionDemo:
    """A demo of few scenes with the configs of this repository."""
    return DetectionDemo(Path(__file__).resolve().parents[3], tmp_path / "out", params=few)
