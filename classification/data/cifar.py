"""CIFAR-10 and CIFAR-100 in their authors' binary format, which runs nothing when it is read.

A file is a sequence of rows: one label byte (CIFAR-10) or two, coarse then fine (CIFAR-100), and
3,072 pixel bytes: the red plane, the green and the blue one, row by row.
https://www.cs.toronto.edu/~kriz/cifar.html
"""

import shutil
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from iopath.common.file_io import file_lock
from numpy.typing import NDArray
from torchvision.datasets.utils import calculate_md5

from classification.data.images import ImageSet

URL = "https://www.cs.toronto.edu/~kriz"
SHAPE = (3, 32, 32)
PIXEL_BYTES = 3 * 32 * 32
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class CifarFormat:
    """Names and sizes of the parts of a CIFAR."""

    archive: str
    md5: str  # of the archive, from the authors' page
    folder: str  # in the archive
    train: tuple[str, ...]  # files of training images
    train_rows: int  # images in each
    test: str
    test_rows: int
    names: str  # file of class names, one a line
    label_bytes: int  # in a row; the last one is the class


FORMATS = {
    "cifar10": CifarFormat(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        train_rows=10_000,
        test="test_batch.bin",
        test_rows=10_000,
        names="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": CifarFormat(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        train_rows=50_000,
        test="test.bin",
        test_rows=10_000,
        names="fine_label_names.txt",
        label_bytes=2,
    ),
}


def load_cifar(
    root: str | Path, name: str = "cifar10", *, train: bool, download: bool = False
) -> ImageSet:
    """Reads the training or test images of a CIFAR.

    Args:
        root: folder that holds, or will hold, the unpacked archive's own folder.
        name: "cifar10" or "cifar100".
        train: training or test images.
        download: fetch the archive if its files are missing.

    Raises:
        ValueError: files that are missing and can't be had, or that are not as they should be.
    """
    if name not in FORMATS:
        raise ValueError(f"name: got {name!r}, expected one of {sorted(FORMATS)}")
    layout = FORMATS[name]
    folder = Path(root) / layout.folder
    if not folder.is_dir():
        fetch_folder(folder, f"{URL}/{layout.archive}", layout.md5, download=download)
    classes = _read(folder / layout.names).decode().split()
    files = layout.train if train else (layout.test,)
    rows = layout.train_rows if train else layout.test_rows
    parts = [_read_rows(folder / file, rows, layout.label_bytes, len(classes)) for file in files]
    content = torch.from_numpy(np.concatenate(parts))
    labels = content[:, layout.label_bytes - 1].long()
    images = content[:, layout.label_bytes :].reshape(-1, *SHAPE)
    return ImageSet(images, labels, classes)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: can't be read ({error.strerror}); remove its folder to unpack it again"
        ) from error


def _read_rows(path: Path, rows: int, label_bytes: int, num_classes: int) -> NDArray[np.uint8]:
    """Returns (rows, label_bytes + 3072)."""
    content = np.frombuffer(_read(path), dtype=np.uint8)
    expected = rows * (label_bytes + PIXEL_BYTES)
    if content.size != expected:
        raise ValueError(
            f"{path}: {content.size} bytes, expected {expected} ({rows} images); "
            "remove its folder to unpack it again"
        )
    table = content.reshape(rows, -1)
    highest = table[:, label_bytes - 1].max()
    if highest >= num_classes:
        raise ValueError(f"{path}: has label {highest}, expected less than {num_classes}")
    return table


def fetch_folder(folder: Path, url: str, md5: str, *, download: bool) -> None:
    """Unpacks ``folder`` from its archive, which lies beside it or is downloaded there.

    Of several processes that want it, one does the work and the others wait.
    """
    archive = folder.parent / url.rpartition("/")[2]
    if not archive.exists() and not download:
        raise ValueError(
            f"{folder}: no such folder; put {url} in {folder.parent} or allow download"
        )
    with file_lock(str(archive)):
        if folder.is_dir():
            return
        if not archive.exists():
            download_file(url, archive)
        found = calculate_md5(str(archive))
        if found != md5:
            raise ValueError(
                f"{archive}: MD5 {found}, expected {md5}; remove it to download it again"
            )
        unpack_folder(archive, folder)


def download_file(url: str, path: Path) -> None:
    """Downloads to a file that appears when it is complete; refuses addresses without https."""
    if not url.startswith("https://"):
        raise ValueError(f"{url}: refused, anyone on the way can change it; expected https")
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, unfinished.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:  # URLError is one
        raise ValueError(
            f"{url} can't be downloaded ({error}); put it in {path.parent} by hand"
        ) from error
    unfinished.rename(path)


def unpack_folder(archive: Path, folder: Path) -> None:
    """Unpacks the folder of this name from a tar archive, and writes nowhere else.

    It is renamed from ``.unfinished`` at the end, so a folder in place is complete.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(archive) as content:
            content.extractall(unfinished, filter="data")  # refuses paths and links that lead out
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive}: can't be unpacked: {error}") from error
    if not (unfinished / folder.name).is_dir():
        raise ValueError(f"{archive}: expected a folder {folder.name} in it")
    (unfinished / folder.name).rename(folder)
    shutil.rmtree(unfinished)
