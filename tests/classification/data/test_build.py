"""From a config to data sets and loaders."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classification.config import get_cfg
from classification.data import (
    DATASET_REGISTRY,
    ImageSet,
    build_test_loader,
    build_train_loader,
    datasets,
    load_splits,
)
from classification.data.loader import StreamingLoader

from detectron2.config import CfgNode
from detectron2.utils import comm


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    datasets._loaded.clear()
    yield
    datasets._loaded.clear()


def config(name: str, *opts: Any) -> CfgNode:
    cfg = get_cfg()
    defaults = ["MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", 4, "SOLVER.IMS_PER_BATCH", 8]
    cfg.merge_from_list([*defaults, "DATASETS.NAME", name, *opts])
    return cfg


def write_images(root: Path, split: str, classes: str, count: int = 3, size: int = 12) -> None:
    random = np.random.default_rng(len(split))
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")


def test_fake_images_train_and_evaluate() -> None:
    cfg = config("fake", "INPUT.SIZE", 16, "TEST.IMS_PER_BATCH", 10)
    train = load_splits(cfg).train
    assert (len(train), len(train.classes)) == (64, 4)
    assert train.labels.shape == (64,)
    for batch in islice(build_train_loader(cfg, seed=1), 3):
        assert batch.images.shape == (8, 3, 16, 16)
        assert torch.equal(batch.labels, train.labels[batch.indices])
    assert [len(batch.labels) for batch in build_test_loader(cfg)] == [10, 10, 10, 2]


def test_held_out_images_replace_the_test_set() -> None:
    cfg = config("fake", "DATASETS.VALIDATION", 12)
    assert len(load_splits(cfg).train) == 52
    (batch,) = build_test_loader(cfg)
    assert torch.bincount(batch.labels).tolist() == [3] * 4


def test_a_subset_is_taken_of_what_is_left() -> None:
    cfg = config("fake", "DATASETS.VALIDATION", 12, "DATASETS.TRAIN_SUBSET", 20)
    train, evaluation = load_splits(cfg)
    assert torch.bincount(train.labels).tolist() == [5] * 4
    assert isinstance(train, ImageSet)
    assert isinstance(evaluation, ImageSet)
    shown = {image.numpy().tobytes() for image in evaluation.images}
    assert not shown & {image.numpy().tobytes() for image in train.images}


@pytest.mark.parametrize("name", ["folder", "imagenet"])
@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_folders_of_images(name: str, test_folder: str, tmp_path: Path) -> None:
    write_images(tmp_path, "train", "abcd")
    write_images(tmp_path, test_folder, "abcd", count=1)
    opts = ["DATASETS.ROOT", str(tmp_path), "INPUT.SIZE", 8, "DATALOADER.NUM_WORKERS", 0]
    cfg = config(name, *opts)
    train = load_splits(cfg).train
    assert (len(train), len(train.classes)) == (12, 4)
    loader = build_train_loader(cfg, seed=0)
    assert isinstance(loader, StreamingLoader) == (name == "imagenet")
    assert next(iter(loader)).images.shape == (8, 3, 8, 8)
    assert [batch.labels.tolist() for batch in build_test_loader(cfg)] == [[0, 1, 2, 3]]


def test_images_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def counted(cfg: CfgNode, train: bool) -> ImageSet:
        calls.append(train)
        return datasets.fake(cfg, train)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "counted", counted)
    cfg = config("counted")
    load_splits(cfg)
    build_train_loader(cfg, seed=0)
    build_test_loader(cfg)
    assert calls == [True, False]
    load_splits(config("counted", "DATASETS.VALIDATION", 8))
    assert calls == [True, False, True]


def test_a_users_own_data_set_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(cfg: CfgNode, train: bool) -> ImageSet:
        return ImageSet(torch.zeros(6, 3, 32, 32, dtype=torch.uint8), torch.arange(6), [*"uvwxyz"])

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "own", own)
    assert len(load_splits(config("own")).train.classes) == 6
    with pytest.raises(ValueError, match="INPUT.SIZE: got 64, but the images of 'own' are 3x32x32"):
        load_splits(config("own", "INPUT.SIZE", 64))


def test_classes_of_train_and_test_must_agree(tmp_path: Path) -> None:
    write_images(tmp_path, "train", "abc")
    write_images(tmp_path, "test", "abd")
    cfg = config("folder", "DATASETS.ROOT", str(tmp_path))
    with pytest.raises(ValueError, match=r"DATASETS.ROOT.*only one of them has \['c', 'd'\]"):
        load_splits(cfg)


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    cfg = config("folder", "DATASETS.ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"DATASETS.ROOT: .*nowhere: expected train/<class>/"):
        load_splits(cfg)
    write_images(tmp_path / "nowhere", "train", "ab")
    with pytest.raises(ValueError, match="expected test/<class>/ or val/<class>/ in it"):
        load_splits(cfg)
    cfg.DATASETS.VALIDATION = 2  # no test set needed
    assert len(load_splits(cfg).train) == 4


def test_missing_cifar_names_the_data_set(tmp_path: Path) -> None:
    cfg = config("cifar100", "DATASETS.ROOT", str(tmp_path), "DATASETS.DOWNLOAD", False)
    with pytest.raises(
        ValueError, match=r"DATASETS.NAME 'cifar100': .*unpack https://.*cifar-100-python"
    ):
        load_splits(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASETS.NAME", "cifar", r"got 'cifar', expected one of \['cifar10', 'cifar100', "),
        ("DATASETS.VALIDATION", 64, "got 64 images to hold out, expected 1 to 63"),
        ("DATASETS.TRAIN_SUBSET", -1, "got -1 images"),
        ("INPUT.PIXEL_STD", [1.0, 0.0, 1.0], "expected three numbers each"),
        ("INPUT.PIXEL_MEAN", [1.0], "expected three numbers each"),
        ("INPUT.CROP_PADDING", -1, "got -1, expected 0 or more"),
        ("SOLVER.IMS_PER_BATCH", 0, "got 0, expected a positive multiple"),
    ],
)
def test_impossible_values_name_their_key(key: str, value: Any, message: str) -> None:
    cfg = config("fake", key, value)
    with pytest.raises(ValueError, match=f"{key}.*{message}"):
        build_train_loader(cfg, seed=0)


def test_test_batch_must_be_positive() -> None:
    with pytest.raises(ValueError, match="TEST.IMS_PER_BATCH: got 0"):
        build_test_loader(config("fake", "TEST.IMS_PER_BATCH", 0))


def test_processes_share_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config("fake", "TEST.IMS_PER_BATCH", 8)
    whole = next(iter(build_train_loader(cfg, seed=2)))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    parts, tested = [], []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        parts.append(next(iter(build_train_loader(cfg, seed=2))))
        tested.append([batch.indices for batch in build_test_loader(cfg)])
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [len(indices) for share in tested for indices in share] == [4] * 8
    assert torch.cat([torch.cat(share) for share in tested]).tolist() == list(range(32))
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH: got 8, expected a positive mult"):
        build_train_loader(cfg, seed=2)
