"""Archives from the web, checked before anything is read from them."""

import hashlib
import shutil
import tarfile
import urllib.request
from pathlib import Path

from iopath.common.file_io import file_lock

TIMEOUT = 30  # seconds without an answer


def fetch_folder(folder: Path, url: str, md5: str, *, download: bool) -> None:
    """Unpack ``folder`` from its archive, which lies beside it or is downloaded there.

    It is unpacked beside its place and renamed at the end, so what is in place is complete. Of
    several processes that want it, one does the work and the others wait.

    Args:
        folder: the folder that the archive holds.
        url: of a tar archive, https.
        md5: of the archive, hexadecimal.
        download: fetch the archive if it is not there.

    Raises:
        ValueError: no archive and none can be downloaded, or one that is not what it should be.
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
        check_md5(archive, md5)
        unpack_folder(archive, folder)


def download_file(url: str, path: Path) -> None:
    """Download to a file that appears when it is complete.

    Raises:
        ValueError: it can't be downloaded, or anyone on the way could change it.
    """
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


def check_md5(path: Path, md5: str) -> None:
    """Raise a ValueError that names the file unless it has this MD5 sum."""
    with path.open("rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != md5:
        raise ValueError(
            f"{path}: MD5 {digest.hexdigest()}, expected {md5}; remove it to download it again"
        )


def unpack_folder(archive: Path, folder: Path) -> None:
    """Unpack the folder of this name from a tar archive, beside which nothing is written.

    Raises:
        ValueError: an archive that is broken, lacks the folder, or has a member that would lie
            elsewhere.
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
