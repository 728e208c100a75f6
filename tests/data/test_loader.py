"""The loader of a detector's training, beside Detectron2's own."""

import os
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.config import default_config
from fam_det.data.batch_sampler import aspect_groups, build_sampler, form_batches, uniform_sampler
from fam_det.data.loader import (
    RestartingLoader,
    ResumableLoader,
    build_resumable_loader,
    build_test_loader,
    restarting_batches,
)

from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm


def records(count: int) -> list[dict[str, Any]]:
    sizes = [(20, 10), (10, 20), (10, 10), (30, 10), (9, 10)]
    return [
        {
            "image_id": i,
            "file_name": f"{i}.png",
            "width": sizes[i % 5][0],
            "height": sizes[i % 5][1],
            "annotations": [{"category_id": min(i % 7, 1)}],
        }
        for i in range(count)
    ]


def noisy(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper that is random, as augmentation is."""
    return {**record, "noise": (float(np.random.rand()), float(torch.rand(())))}


def loader(count: int = 23, mapper: Any = noisy, **options: Any) -> ResumableLoader:
    sampler = uniform_sampler(count)
    return ResumableLoader(records(count), mapper, sampler, 4, **{"seed": 5, **options})


def first(batches: Any, count: int = 12) -> list[list[dict[str, Any]]]:
    return list(islice(iter(batches), count))


@pytest.mark.parametrize("group", [True, False])
def test_batches_are_detectron2_s(group: bool) -> None:
    theirs = build_detection_train_loader(
        records(23),
        mapper=noisy,
        sampler=TrainingSampler(23, seed=5),
        total_batch_size=4,
        aspect_ratio_grouping=group,
    )
    ids = [
        [[x["image_id"] for x in batch] for batch in first(one)]
        for one in (theirs, loader(group=group))
    ]
    assert ids[0] == ids[1]


def test_a_mapper_of_ones_own_reads_files_of_any_kind(tmp_path: Path) -> None:
    """Of any size, too: the records need not say it."""
    dataset = []
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.full((2, 3), i))
        dataset.append({"file_name": str(tmp_path / f"{i}.npy"), "image_id": i})

    def read(record: dict[str, Any]) -> dict[str, Any]:
        return {"pixels": np.load(record["file_name"]), "image_id": record["image_id"]}

    options = {"mapper": read, "num_workers": 0}
    (batch,) = first(build_resumable_loader(dataset, total_batch_size=2, **options), 1)
    for items in (batch, [x for one in build_test_loader(dataset, **options) for x in one]):
        assert sorted(x["image_id"] for x in items) == [0, 1]
        assert all((x["pixels"] == x["image_id"]).all() for x in items)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batch_k_depends_on_seed_and_k_alone(workers: int) -> None:
    unbroken = first(loader())
    resumed = loader(num_workers=workers)
    resumed.start_iter = 5
    np.random.seed(99)  # whatever was drawn before
    assert first(resumed, 7) == unbroken[5:]
    assert first(loader(seed=6), 7) != unbroken[:7]


def test_processes_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        batches = form_batches(uniform_sampler(12)(1), 3)
        parts.append([key for batch in islice(batches, 4) for key in batch])
    places = [place for part in parts for place, _ in part]
    assert sorted(places) == list(range(24))  # each seeded apart from the others
    epochs = sorted((place // 12, index) for part in parts for place, index in part)
    assert epochs == [(epoch, index) for epoch in (0, 1) for index in range(12)]


@pytest.mark.parametrize(
    "name", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]
)
def test_every_sampler_of_detectron2_starts_where_it_should(name: str) -> None:
    cfg = default_config()
    cfg.DATALOADER.SAMPLER_TRAIN = name
    cfg.merge_from_list(["DATALOADER.RANDOM_SUBSET_RATIO", 0.5])
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.9
    sampler, groups = build_sampler(cfg, records(20)), aspect_groups(records(20))
    batches = list(islice(form_batches(sampler(3), 2, groups), 30))
    assert list(islice(form_batches(sampler(3), 2, groups), 10, 30)) == batches[10:]
    cfg.DATALOADER.SAMPLER_TRAIN = "Other"
    with pytest.raises(ValueError, match="DATALOADER.SAMPLER_TRAIN: got 'Other', expected"):
        build_sampler(cfg, records(2))


def fails_on_odd(record: dict[str, Any]) -> dict[str, Any]:
    if record["image_id"] % 2:
        raise FileNotFoundError(record["file_name"])
    return noisy(record)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_named_once_and_counted(
    workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    broken = loader(8, fails_on_odd, num_workers=workers, max_unreadable=4)
    batches = first(broken, 20)
    assert all(x["image_id"] % 2 == 0 for batch in batches for x in batch)
    assert batches == first(loader(8, fails_on_odd, max_unreadable=4), 20)
    assert set(broken.unreadable.reasons) == {f"{i}.png" for i in (1, 3, 5, 7)}
    named = [r.getMessage() for r in caplog.records if r.getMessage().startswith("3.png")]
    assert "there is no such file; skipped" in named[0]
    with pytest.raises(ValueError, match=r"\d.png: there is no such file; DATALOADER.MAX_UNREAD"):
        first(loader(8, fails_on_odd, num_workers=workers, max_unreadable=3), 20)


def test_a_data_set_of_which_nothing_can_be_read_is_an_error() -> None:
    def fails(record: dict[str, Any]) -> None:
        raise OSError("truncated")

    with pytest.raises(ValueError, match=r"10 images in a row cannot be used.*OSError: truncated"):
        first(loader(30, fails, max_unreadable=50))


@pytest.fixture
def quick_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch waits 5 seconds for a stuck worker before it kills it."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


class KillsItsWorker:
    """Kills the process that maps a record for the first time; ``stuck`` waits instead."""

    def __init__(self, mark: Path, stuck: bool) -> None:
        self.mark, self.stuck = mark, stuck

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        if record["image_id"] == 7 and not self.mark.exists():
            self.mark.touch()
            if self.stuck:
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)
        return noisy(record)


@pytest.mark.usefixtures("quick_shutdown")
@pytest.mark.parametrize("stuck", [False, True])
def test_a_lost_worker_changes_no_batch(
    stuck: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapper = KillsItsWorker(tmp_path / "mark", stuck)
    batches = first(loader(mapper=mapper, num_workers=2, timeout=1.0))
    assert (tmp_path / "mark").exists()
    assert batches == first(loader())
    assert "new loader workers, because: DataLoader" in caplog.text


@pytest.mark.usefixtures("quick_shutdown")
def test_a_worker_that_is_lost_in_an_evaluation_costs_no_image(tmp_path: Path) -> None:
    mapper = KillsItsWorker(tmp_path / "mark", stuck=True)
    before = signal.getsignal(signal.SIGCHLD)
    images = build_detection_test_loader(records(12), mapper=mapper, num_workers=2)
    restarting = RestartingLoader(images, timeout=1.0)
    assert [batch[0]["image_id"] for batch in restarting] == list(range(12))
    assert len(restarting) == 12
    assert (tmp_path / "mark").exists()
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_worker_that_is_lost_again_and_again_is_an_error() -> None:
    def dies(record: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match="DataLoader"):
        first(loader(mapper=dies, num_workers=1, timeout=0.3))


def test_lazy_loader_is_resumable_unless_it_has_a_sampler_of_its_own() -> None:
    ours = build_resumable_loader(records(9), mapper=noisy, total_batch_size=2, sampler=None)
    assert isinstance(ours, ResumableLoader)
    sampler = TrainingSampler(9, seed=1)
    theirs = build_resumable_loader(records(9), mapper=noisy, total_batch_size=2, sampler=sampler)
    assert not isinstance(theirs, ResumableLoader)
    assert len(next(iter(theirs))) == 2
    with pytest.raises(ValueError, match="total_batch_size: got 0, expected a positive multiple"):
        build_resumable_loader(records(9), mapper=noisy, total_batch_size=0)


def test_a_worker_killed_while_it_passes_a_batch_is_replaced() -> None:
    resets = iter([ConnectionResetError(104, "Connection reset by peer"), EOFError()])

    def batches_from(iteration: int) -> Iterator[int]:
        yield from range(iteration, min(iteration + 2, 5))
        if iteration < 3:
            raise next(resets)

    assert list(restarting_batches(batches_from, 0)) == [0, 1, 2, 3, 4]
