"""The teacher's maps on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modeling.small_detector import images

Build = Callable[..., Any]
SIZE = (64, 96)


def teacher(build: Build, folder: Path, *opts: str) -> Any:
    """A loaded teacher that counts the images that it computes."""
    torch.manual_seed(0)
    found = build("MODEL.TEACHER.CACHE", str(folder), *opts).teacher
    found.load_weights()
    found.computed = []
    found.backbone.register_forward_pre_hook(lambda _, x: found.computed.append(len(x[0])))
    return found


def test_an_image_that_comes_again_is_read(build: Build, tmp_path: Path) -> None:
    batch = images(SIZE, SIZE)
    one = teacher(build, tmp_path)
    first = one(batch, SIZE)
    again = one([batch[1], images(SIZE, seed=1)[0], batch[0]], SIZE)
    assert one.computed == [2, 1]
    for level, x in first.items():
        assert torch.equal(again[level][[2, 0]], x)
    other_run = teacher(build, tmp_path)
    other_run(batch, SIZE)
    assert other_run.computed == []
    assert {name: x.shape for name, x in one(batch, SIZE, ["p3"]).items()} == {
        "p3": first["p3"].shape
    }


def test_other_weights_paddings_and_formats_are_other_maps(build: Build, tmp_path: Path) -> None:
    batch = images(SIZE)
    one = teacher(build, tmp_path)
    one(batch, SIZE)
    one(batch, (64, 128))
    assert one.computed == [1, 1]
    other = teacher(build, tmp_path, "INPUT.FORMAT", "RGB")
    other(batch, SIZE)
    assert other.computed == [1]
    next(one.backbone.parameters()).add_(1)
    one.load_weights()
    one(batch, SIZE)
    assert one.computed == [1, 1, 1]


def test_a_broken_file_is_computed_again_and_a_full_folder_grows_no_more(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = teacher(build, tmp_path)
    expected = one(images(SIZE), SIZE)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    for level, x in one(images(SIZE), SIZE).items():
        assert torch.equal(x, expected[level])
    size = file.stat().st_size
    full = teacher(build, tmp_path, "MODEL.TEACHER.CACHE_GB", str(1.5 * size / 1e9))
    for seed in (1, 2):
        full(images(SIZE, seed=seed), SIZE)
    assert list(tmp_path.iterdir()) == [file]
    assert caplog.text.count("; no more maps are cached") == 1
