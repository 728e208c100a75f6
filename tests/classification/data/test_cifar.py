"""The CIFARs, packed here as torchvision expects them."""

import hashlib
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from classification.data.datasets import load_cifar

ROWS = 6  # in a file; the real ones have 10,000 or 50,000
Dataset = type[CIFAR10]


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(dataset: Dataset, root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Write a small CIFAR whose files count as the authors'; their content by name."""
    rng = np.random.default_rng(0)
    folder, names = root / dataset.base_folder, [name for name, _ in dataset.train_list]
    folder.mkdir(parents=True)
    label_key = "fine_labels" if dataset is CIFAR100 else "labels"
    content: dict[str, Any] = {
        name: {
            "data": rng.integers(0, 256, (ROWS, 3072), dtype=np.uint8),
            label_key: rng.integers(0, 10, ROWS).tolist(),
        }
        for name in [*names, dataset.test_list[0][0]]
    }
    content[dataset.meta["filename"]] = {dataset.meta["key"]: [*"abcdefghij"]}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
    for key in ("train_list", "test_list"):
        listed = [[name, md5_of(folder / name)] for name, _ in getattr(dataset, key)]
        patch.setattr(dataset, key, listed)
    md5 = md5_of(folder / dataset.meta["filename"])
    patch.setattr(dataset, "meta", {**dataset.meta, "md5": md5})
    return content


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("train", [True, False])
def test_files_read_back_exactly(
    dataset: Dataset, train: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_cifar(dataset, tmp_path, monkeypatch)
    names = [name for name, _ in (dataset.train_list if train else dataset.test_list)]
    images = load_cifar(dataset, str(tmp_path), train=train, download=False)
    pixels = np.concatenate([content[name]["data"] for name in names])  # red plane, green, blue
    assert torch.equal(images.images, torch.from_numpy(pixels).view(-1, 3, 32, 32))
    labels = [
        x for name in names for key in content[name] if key != "data" for x in content[name][key]
    ]
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == labels
    assert images.classes == [*"abcdefghij"]


def test_an_archive_that_lies_there_is_unpacked_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(CIFAR10, tmp_path / "source", monkeypatch)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        archive.add(tmp_path / "source" / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5_of(root / CIFAR10.filename))
    monkeypatch.setattr(CIFAR10, "url", "https://nowhere.invalid/cifar")
    for _ in range(2):  # the second time it is there
        assert len(load_cifar(CIFAR10, str(root), train=False, download=True)) == ROWS


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", "https://nowhere.invalid/cifar")
    with pytest.raises(ValueError, match=r"nowhere.invalid/cifar can't be downloaded .* by hand"):
        load_cifar(CIFAR10, str(tmp_path / "new" / "root"), train=True, download=True)


def test_a_hostile_batch_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(CIFAR10, tmp_path, monkeypatch)
    mark = tmp_path / "mark"
    hostile = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    (tmp_path / CIFAR10.base_folder / "data_batch_1").write_bytes(hostile)
    with pytest.raises(ValueError, match="no whole cifar-10-batches-py in it; unpack https://"):
        load_cifar(CIFAR10, str(tmp_path), train=True, download=False)
    assert not mark.exists()
