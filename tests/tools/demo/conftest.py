"""Fixtures of the demos' tests."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tools.demo import scenes, study
from tools.demo.scenes import DigitPool, SceneParams, load_digits
from tools.demo.study import Demo, main


@pytest.fixture(scope="session")
def digits() -> DigitPool:
    """The real ones."""
    return load_digits()


@pytest.fixture
def few(digits: DigitPool, monkeypatch: pytest.MonkeyPatch) -> SceneParams:
    """A small data set; reading the digits takes seconds, so it is done once."""
    monkeypatch.setattr(scenes, "load_digits", lambda: digits)
    return SceneParams(train_images=5, val_images=3)


@dataclass
class Stage:
    """A demo with fake trainings."""

    trainings: Path
    output: Path

    def add(self, name: str, config: object, scores: list[dict[str, float]]) -> Path:
        """Make a training: its config, a line of metrics each 20 iterations, and evaluations."""
        folder = self.trainings / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        lines: list[dict[str, Any]] = [{"iteration": i, "time": 0.5} for i in range(19, 100, 20)]
        steps = (39, 79, 100)
        lines += [{"iteration": i, **score} for i, score in zip(steps, scores, strict=True)]
        (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "last_checkpoint").write_text("model_final.pth")
        return folder

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        for name in ("model_0000049.pth", "model_final.pth"):
            torch.save({"model": weights}, folder / name)

    def run(self, demo: Demo, *words: str) -> tuple[int, list[tuple[str, bool, dict[str, str]]]]:
        """Exit status, and config, whether resumed, and options of each training started."""
        started = self.trainings / "started"
        started.unlink(missing_ok=True)
        status = main(demo, ["--output", str(self.output), *words])
        lines = started.read_text().splitlines() if started.exists() else []
        return status, [tuple(json.loads(line)) for line in lines]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    trainings = tmp_path / "trainings"
    monkeypatch.setenv("FAKE_TRAININGS", str(trainings))
    tool = [sys.executable, str(Path(__file__).with_name("fake_training.py"))]
    monkeypatch.setattr(study, "training_command", lambda study: tool)
    monkeypatch.chdir(study.ROOT)  # back there afterwards
    before = signal.getsignal(signal.SIGTERM)
    yield Stage(trainings, tmp_path / "out")
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def without_picture() -> Callable[[Demo], Demo]:
    """Drawing takes a second."""
    return lambda demo: replace(demo, draw=lambda path, outcomes: None)
