"""Batches of image files: a function of the seed and the iteration, whatever the workers."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from classification.data import Batch, ImageFiles
from classification.data.folder import list_folder
from classification.data.streaming import StreamingEvaluationLoader, StreamingLoader

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


def test_every_epoch_shows_every_image_once_in_another_crop(files: ImageFiles) -> None:
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
    batches = StreamingEvaluationLoader(files, 4, size=16, mean=MEAN, std=STD, num_workers=0)
    assert len(batches) == 3
    whole = Batch(*(torch.cat(values) for values in zip(*batches, strict=True)))
    expected = torch.stack([reference(Image.open(path)) for path in files.paths])
    torch.testing.assert_close(whole.images, expected)
    assert torch.equal(whole.labels, files.labels)
    assert whole.indices.tolist() == list(range(10))


def test_evaluation_is_shared_without_repeats(files: ImageFiles) -> None:
    options: dict[str, Any] = {"size": 16, "mean": MEAN, "std": STD, "num_workers": 0}
    shares = [
        StreamingEvaluationLoader(files, 2, **options, rank=rank, world_size=3) for rank in range(3)
    ]
    indices = [batch.indices for share in shares for batch in share]
    assert torch.cat(indices).tolist() == list(range(10))


@pytest.fixture
def with_a_broken_one(files: ImageFiles, tmp_path: Path) -> ImageFiles:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8")
    return ImageFiles([str(path), *files.paths[1:]], files.labels, files.classes)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_gives_way_to_another_and_is_named_once(
    num_workers: int, with_a_broken_one: ImageFiles, caplog: pytest.LogCaptureFixture
) -> None:
    made = loader(with_a_broken_one, num_workers=num_workers, max_unreadable=1)
    batches = list(islice(made, 5))  # two epochs
    for batch, same in zip(
        batches, islice(loader(with_a_broken_one, max_unreadable=1), 5), strict=True
    ):
        assert_same(batch, same)
        assert 0 not in batch.indices and len(batch.indices) == 4
        assert torch.equal(batch.labels, with_a_broken_one.labels[batch.indices])
    assert list(made.unreadable.reasons) == [with_a_broken_one.paths[0]]
    assert "broken.jpg: not an image, or of an unknown format; passed over (1 of" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_where_none_may_be_broken_it_is_named(
    num_workers: int, with_a_broken_one: ImageFiles
) -> None:
    with pytest.raises(ValueError, match="broken.jpg: not an image.*MAX_UNREADABLE lets"):
        list(islice(loader(with_a_broken_one, num_workers=num_workers), 5))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_evaluation_needs_every_image(num_workers: int, with_a_broken_one: ImageFiles) -> None:
    options: dict[str, Any] = {"size": 16, "mean": MEAN, "std": STD, "num_workers": num_workers}
    with pytest.raises(ValueError, match="broken.jpg: not an image"):
        list(StreamingEvaluationLoader(with_a_broken_one, 4, **options))
