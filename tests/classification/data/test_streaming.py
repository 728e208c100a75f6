"""Batches of image files: a function of the seed and the iteration, whatever the workers."""

import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import dataloader
from torchvision import transforms as T

from classification.data import Batch, ImageFiles
from classification.data import loader as loaders
from classification.data.images import list_folder, open_image
from classification.data.loader import EvaluationLoader, StreamingLoader

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(10):
        path = root / f"class_{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        shape = (20 + number, 30, 3)
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return list_folder(root)


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch looks after its workers, and waits for their end, 5 s at a time."""
    get = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(get, "__defaults__", (0.3,))
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.3)


def loader(files: ImageFiles, **options: Any) -> StreamingLoader:
    base: dict[str, Any] = {"size": 16, "mean": MEAN, "std": STD, "seed": 3, "num_workers": 0}
    return StreamingLoader(files, 4, **{**base, **options})


def assert_same(first: Batch, second: Batch) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_has_the_types_it_promises(files: ImageFiles) -> None:
    batch = next(iter(loader(files)))
    assert batch.images.shape == (4, 3, 16, 16)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert torch.equal(batch.labels, files.labels[batch.indices])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same(files: ImageFiles, num_workers: int) -> None:
    batches = islice(loader(files, num_workers=num_workers), 6)
    for batch, expected in zip(batches, islice(loader(files), 6), strict=True):
        assert_same(batch, expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_loader_gives_what_an_unbroken_run_would_see(
    files: ImageFiles, num_workers: int
) -> None:
    unbroken = list(islice(loader(files), 6))
    resumed = loader(files, num_workers=num_workers)
    batches = iter(resumed)
    resumed.start_iter = 3
    for expected in unbroken[3:]:
        assert_same(next(batches), expected)


def test_every_epoch_has_every_image_once_in_another_crop(files: ImageFiles) -> None:
    batches = list(islice(loader(files), 5))  # 5 batches of 4 are 2 epochs of 10
    indices = torch.cat([batch.indices for batch in batches]).view(2, 10)
    images = torch.cat([batch.images for batch in batches]).view(2, 10, -1)
    order = indices.argsort(1)
    for epoch in range(2):
        assert indices[epoch, order[epoch]].tolist() == list(range(10))
    assert (images[0, order[0]] != images[1, order[1]]).any(1).all()


def test_processes_share_the_batch_that_one_would_see(files: ImageFiles) -> None:
    whole = next(iter(loader(files)))
    parts = [next(iter(loader(files, rank=rank, world_size=2))) for rank in range(2)]
    assert_same(Batch(*(torch.cat(values) for values in zip(*parts, strict=True))), whole)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_default_generator_is_neither_read_nor_moved(
    files: ImageFiles, num_workers: int
) -> None:
    state = torch.get_rng_state()
    first = next(iter(loader(files, num_workers=num_workers)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert_same(first, next(iter(loader(files, num_workers=num_workers))))


def test_evaluation_is_torchvisions_pipeline(files: ImageFiles) -> None:
    resize = T.Resize(18)  # 16 * 256 / 224 = 18.3
    steps = [resize, T.CenterCrop(16), T.ToTensor(), T.Normalize(MEAN, STD)]
    reference = T.Compose(steps)
    batches = EvaluationLoader(files, 4, size=16, mean=MEAN, std=STD, num_workers=0)
    assert len(batches) == 3
    whole = Batch(*(torch.cat(values) for values in zip(*batches, strict=True)))
    expected = torch.stack([reference(Image.open(path)) for path in files.paths])
    torch.testing.assert_close(whole.images, expected)
    assert torch.equal(whole.labels, files.labels)
    assert whole.indices.tolist() == list(range(10))


def test_evaluation_is_shared_without_repeats(files: ImageFiles) -> None:
    options: dict[str, Any] = {"size": 16, "mean": MEAN, "std": STD, "num_workers": 0}
    shares = [EvaluationLoader(files, 2, **options, rank=rank, world_size=3) for rank in range(3)]
    indices = [batch.indices for share in shares for batch in share]
    assert torch.cat(indices).tolist() == list(range(10))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named(num_workers: int, tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8")
    files = ImageFiles([str(path)], torch.tensor([0]), ["only"])
    with pytest.raises(ValueError, match="broken.jpg: not an image"):
        next(iter(loader(files, num_workers=num_workers)))


def break_some(files: ImageFiles, folder: Path, *positions: int) -> ImageFiles:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8")
    paths = list(files.paths)
    for position in positions:
        paths[position] = str(folder / "gone.jpg" if position % 2 else folder / "broken.jpg")
    return ImageFiles(paths, files.labels, files.classes)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_images_that_cannot_be_read_are_replaced(
    num_workers: int, files: ImageFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = break_some(files, tmp_path, 2, 5)
    broken = loader(some, num_workers=num_workers, max_unreadable=2)
    for batch, whole in zip(islice(broken, 6), loader(files), strict=False):
        assert not {2, 5} & set(batch.indices.tolist())
        assert torch.equal(batch.labels, files.labels[batch.indices])
        same = batch.indices == whole.indices
        assert torch.equal(batch.images[same], whole.images[same])
        assert set(whole.indices[~same].tolist()) <= {2, 5}
    assert set(broken.unreadable.reasons) == {some.paths[2], some.paths[5]}
    assert "gone.jpg: there is no such file" in caplog.text
    with pytest.raises(ValueError, match=r"DATALOADER.MAX_UNREADABLE lets .* 1 such"):
        list(islice(loader(some, num_workers=num_workers, max_unreadable=1), 6))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_evaluation_leaves_no_image_out(
    num_workers: int, files: ImageFiles, tmp_path: Path
) -> None:
    some = break_some(files, tmp_path, 5)
    batches = EvaluationLoader(some, 4, size=16, mean=MEAN, std=STD, num_workers=num_workers)
    with pytest.raises(ValueError, match="gone.jpg: there is no such file"):
        list(batches)


@pytest.mark.parametrize("training", [True, False])
def test_a_killed_worker_changes_no_batch(
    training: bool, files: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kills_its_worker(path: str) -> Image.Image:
        if path == files.paths[6] and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return open_image(path)

    def batches(num_workers: int) -> list[Batch]:
        options: dict[str, Any] = {"size": 16, "mean": MEAN, "std": STD}
        if training:
            return list(islice(loader(files, num_workers=num_workers), 6))
        return list(EvaluationLoader(files, 3, **options, num_workers=num_workers))

    mark = tmp_path / "mark"
    expected = batches(0)
    monkeypatch.setattr(loaders, "open_image", kills_its_worker)
    for batch, other in zip(batches(2), expected, strict=True):
        assert_same(batch, other)
    assert mark.exists()
