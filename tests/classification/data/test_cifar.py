"""The CIFARs' binary format and its archives, written here as their authors describe them."""

import hashlib
import io
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from classification.data import cifar
from classification.data.cifar import FORMATS, download_file, load_cifar, unpack_folder

ROWS = 6  # in a file of these tests; the real ones have 10,000 or 50,000


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, layout in FORMATS.items():
        small = replace(layout, train_rows=ROWS, test_rows=ROWS)
        monkeypatch.setitem(cifar.FORMATS, name, small)


def write_cifar(root: Path, name: str) -> dict[str, list[tuple[int, Tensor]]]:
    """Write a data set; its rows (label, pixels) by file."""
    layout = FORMATS[name]
    folder = root / layout.folder
    folder.mkdir(parents=True)
    classes = 10 if name == "cifar10" else 100
    # CIFAR-10's ends with an empty line
    (folder / layout.names).write_text("\n".join(f"class_{x}" for x in range(classes)) + "\n\n")
    generator = torch.Generator().manual_seed(0)
    written: dict[str, list[tuple[int, Tensor]]] = {}
    for file in (*layout.train, layout.test):
        labels = torch.randint(0, classes, (ROWS,), generator=generator).tolist()
        pixels = torch.randint(0, 256, (ROWS, 3, 32, 32), dtype=torch.uint8, generator=generator)
        content = b""
        for label, image in zip(labels, pixels, strict=True):
            coarse = bytes([label // 5]) if name == "cifar100" else b""
            content += coarse + bytes([label]) + image.numpy().tobytes()
        (folder / file).write_bytes(content)
        written[file] = list(zip(labels, pixels, strict=True))
    return written


def pack(folder: Path, archive: Path) -> str:
    with tarfile.open(archive, "w:gz") as content:
        content.add(folder, folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("train", [True, False])
def test_files_read_back_exactly(name: str, train: bool, tmp_path: Path) -> None:
    written = write_cifar(tmp_path, name)
    layout = FORMATS[name]
    rows = [row for file in (layout.train if train else [layout.test]) for row in written[file]]
    images = load_cifar(tmp_path, name, train=train)
    assert images.images.dtype == torch.uint8
    assert torch.equal(images.images, torch.stack([pixels for _, pixels in rows]))
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == [label for label, _ in rows]
    assert images.classes == [f"class_{x}" for x in range(10 if name == "cifar10" else 100)]


def test_a_file_that_is_not_whole_is_named(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10")
    path = tmp_path / FORMATS["cifar10"].folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin: 18437 bytes, expected 18438"):
        load_cifar(tmp_path, "cifar10", train=True)
    path.unlink()
    with pytest.raises(ValueError, match=r"data_batch_3.bin: can't be read"):
        load_cifar(tmp_path, "cifar10", train=True)


def test_a_label_without_a_class_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10")
    path = tmp_path / FORMATS["cifar10"].folder / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(ValueError, match=r"test_batch.bin: has label 10, expected less than 10"):
        load_cifar(tmp_path, "cifar10", train=False)


def test_unknown_name_lists_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'cifar1'.*cifar10.*cifar100"):
        load_cifar(tmp_path, "cifar1", train=True)


def test_missing_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder; put https://.*cifar-100-binary.tar.gz"):
        load_cifar(tmp_path, "cifar100", train=True, download=False)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answer downloads with a small archive of CIFAR-10; the addresses that were asked for."""
    source = tmp_path / "source"
    write_cifar(source, "cifar10")
    archive = tmp_path / "served.tar.gz"
    md5 = pack(source / FORMATS["cifar10"].folder, archive)
    monkeypatch.setitem(cifar.FORMATS, "cifar10", replace(FORMATS["cifar10"], md5=md5))
    asked: list[str] = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(archive.read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return asked


def test_download_happens_once(tmp_path: Path, served: list[str]) -> None:
    root = tmp_path / "new" / "root"
    first = load_cifar(root, train=True, download=True)
    again = load_cifar(root, train=True, download=True)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.images, load_cifar(tmp_path / "source", train=True).images)
    assert served == ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]
    names = {path.name for path in root.iterdir()}
    archive = "cifar-10-binary.tar.gz"
    assert names == {"cifar-10-batches-bin", archive, f"{archive}.lock"}


def test_an_archive_that_lies_there_is_unpacked_without_a_download(
    tmp_path: Path, served: list[str]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "served.tar.gz").rename(root / FORMATS["cifar10"].archive)
    assert len(load_cifar(root, train=False, download=False)) == ROWS
    assert served == []


@pytest.mark.usefixtures("served")
def test_a_wrong_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar.FORMATS, "cifar10", replace(FORMATS["cifar10"], md5="0" * 32))
    with pytest.raises(ValueError, match=r"binary.tar.gz: MD5 .*, expected 0000"):
        load_cifar(tmp_path / "root", train=True, download=True)
    assert not (tmp_path / "root" / FORMATS["cifar10"].folder).exists()


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, timeout: float) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(ValueError, match=r"can't be downloaded \(no route to host\); put it in"):
        load_cifar(tmp_path, train=True, download=True)
    assert not list(tmp_path.glob("*.unfinished"))


def escaping_path(content: tarfile.TarFile) -> None:
    content.addfile(tarfile.TarInfo("data/../../escaped"), io.BytesIO())


def escaping_link(content: tarfile.TarFile) -> None:
    link = tarfile.TarInfo("data/link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../escaped"
    content.addfile(link)


def device_file(content: tarfile.TarFile) -> None:
    device = tarfile.TarInfo("data/device")
    device.type = tarfile.CHRTYPE
    content.addfile(device)


@pytest.mark.parametrize("add", [escaping_path, escaping_link, device_file])
def test_an_unsafe_member_is_refused(
    add: Callable[[tarfile.TarFile], None], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content")
    archive, target = tmp_path / "unsafe.tar", tmp_path / "target"
    target.mkdir()
    with tarfile.open(archive, "w") as content:
        content.add(tmp_path / "data", "data")
        add(content)
    with pytest.raises(ValueError, match=r"unsafe.tar: can't be unpacked"):
        unpack_folder(archive, target / "data")
    assert not (target / "data").exists()
    assert not (tmp_path / "escaped").exists()


def test_an_archive_without_the_folder_or_broken_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "some.tar"
    with tarfile.open(archive, "w"):
        pass
    with pytest.raises(ValueError, match="some.tar: expected a folder data in it"):
        unpack_folder(archive, tmp_path / "data")
    archive.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="some.tar: can't be unpacked"):
        unpack_folder(archive, tmp_path / "data")


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_a_download_that_anyone_could_change_is_refused(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{scheme}://host/a.tar: refused, .*expected https"):
        download_file(f"{scheme}://host/a.tar", tmp_path / "a.tar")
    assert not list(tmp_path.iterdir())


def test_a_pickled_batch_is_neither_read_nor_run(tmp_path: Path) -> None:
    """CIFAR's other format, for Python, is pickles; a file of that kind is bytes here."""
    folder = tmp_path / FORMATS["cifar10"].folder
    write_cifar(tmp_path, "cifar10")
    mark = tmp_path / "mark"
    hostile = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    (folder / "data_batch_1.bin").write_bytes(hostile)
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: .* bytes, expected"):
        load_cifar(tmp_path, train=True)
    assert not mark.exists()
