"""Batches of images in memory: a function of the seed and the iteration."""

from itertools import islice
from typing import Any

import pytest
import torch

from classification.data import Batch, ImageSet
from classification.data.augment import crop_and_mirror, draw_crops, normalise
from classification.data.loader import EvaluationLoader, InMemoryLoader
from classification.data.sampling import seeded_generator

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def image_set() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(50) % 7, [str(label) for label in range(7)])


def loader(image_set: ImageSet, **options: Any) -> InMemoryLoader:
    return InMemoryLoader(image_set, 12, **{"mean": MEAN, "std": STD, "seed": 5, **options})


def assert_same(first: Batch, second: Batch) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_has_the_types_it_promises(image_set: ImageSet) -> None:
    batch = next(iter(loader(image_set)))
    assert batch.images.shape == (12, 3, 8, 8)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    assert torch.equal(batch.labels, image_set.labels[batch.indices])


def test_without_augmentation_a_batch_is_the_normalised_images(image_set: ImageSet) -> None:
    batch = next(iter(loader(image_set, padding=0, flip=False)))
    expected = normalise(image_set.images[batch.indices], torch.tensor(MEAN), torch.tensor(STD))
    assert torch.equal(batch.images, expected)


def test_augmentation_is_that_of_the_seed_and_the_iteration(image_set: ImageSet) -> None:
    batch = loader(image_set).batch(3)
    crops = draw_crops(12, 4, True, seeded_generator(5, "augmentation", 3))
    cropped = crop_and_mirror(image_set.images[batch.indices], crops, 4)
    assert torch.equal(batch.images, normalise(cropped, torch.tensor(MEAN), torch.tensor(STD)))


def test_resumed_loader_gives_what_an_unbroken_run_would_see(image_set: ImageSet) -> None:
    unbroken = list(islice(loader(image_set), 12))
    for start in (0, 1, 4, 11):
        resumed = loader(image_set)
        batches = iter(resumed)
        resumed.start_iter = start  # as the trainer does: after it took the iterator
        for expected in unbroken[start:]:
            assert_same(next(batches), expected)


def test_every_epoch_has_every_image_once(image_set: ImageSet) -> None:
    # 25 batches of 12 are 6 epochs of 50
    indices = torch.cat([batch.indices for batch in islice(loader(image_set), 25)])
    for epoch in indices.view(6, 50):
        assert epoch.sort().values.tolist() == list(range(50))
    assert len(torch.unique(indices.view(6, 50), dim=0)) == 6


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batch_that_one_would_see(image_set: ImageSet, world_size: int) -> None:
    whole = loader(image_set).batch(4)
    parts = [
        loader(image_set, rank=rank, world_size=world_size).batch(4) for rank in range(world_size)
    ]
    assert_same(Batch(*(torch.cat(values) for values in zip(*parts, strict=True))), whole)


def test_another_seed_is_another_run(image_set: ImageSet) -> None:
    first, other = (loader(image_set, seed=seed).batch(0) for seed in (5, 6))
    assert not torch.equal(first.indices, other.indices)


def test_the_default_generator_is_neither_read_nor_moved(image_set: ImageSet) -> None:
    state = torch.get_rng_state()
    first = next(iter(loader(image_set)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert_same(first, next(iter(loader(image_set))))


def test_the_number_of_threads_is_as_before(image_set: ImageSet) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        loader(image_set).batch(0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("batch_size", "sizes"), [(20, [20, 20, 10]), (50, [50]), (64, [50])])
def test_evaluation_has_every_image_once_in_order(
    image_set: ImageSet, batch_size: int, sizes: list[int]
) -> None:
    batches = EvaluationLoader(image_set, batch_size, mean=MEAN, std=STD)
    for _ in range(2):
        parts = list(batches)
        assert [len(batch.labels) for batch in parts] == sizes
        assert len(batches) == len(sizes)
        whole = Batch(*(torch.cat(values) for values in zip(*parts, strict=True)))
        expected = normalise(image_set.images, torch.tensor(MEAN), torch.tensor(STD))
        assert_same(whole, Batch(expected, image_set.labels, torch.arange(50)))


@pytest.mark.parametrize("world_size", [3, 60])
def test_evaluation_is_shared_without_repeats(image_set: ImageSet, world_size: int) -> None:
    shares = [
        EvaluationLoader(image_set, 4, mean=MEAN, std=STD, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    indices = [batch.indices for share in shares for batch in share]
    assert torch.cat(indices).tolist() == list(range(50))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_computes_what_the_cpu_does(image_set: ImageSet) -> None:
    on_cpu, on_gpu = (loader(image_set, device=device).batch(2) for device in ("cpu", "cuda"))
    assert on_gpu.images.is_cuda
    torch.testing.assert_close(on_gpu.images.cpu(), on_cpu.images)
    assert torch.equal(on_gpu.labels.cpu(), on_cpu.labels)
    assert torch.equal(on_gpu.indices.cpu(), on_cpu.indices)
