"""Reads and writes images and videos, one picture at a time."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from fam_det.data.images import error_reason, open_checked_image

from detectron2.data.detection_utils import convert_PIL_to_numpy, read_image

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
CODEC = "mp4v"  # MPEG-4, which every build of OpenCV writes
DEFAULT_RATE = 25.0  # frames per second, of a video without a rate
MIN_FRAMES = 0.9  # of the number in the container, which may be an estimate

Pixels = NDArray[np.uint8]  # (H, W, 3)


class UnreadableError(ValueError):
    """An image or a video cannot be read; the message has the reason without the name."""


def progress(items: Iterable[Any] | None, title: str, total: int | None = None) -> "tqdm[Any]":
    """Shows the number of images done and the time left; in a log every ten seconds."""
    seconds = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(items, title, total, unit="image", mininterval=seconds, leave=False)


def list_media(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """Returns the innermost folder of all files, and their names relative to it, each once.

    Lists the images of a folder, without subfolders, sorted by name.

    Raises:
        ValueError: a path that is not there, or a folder without images.
    """
    files = dict.fromkeys(file for path in paths for file in _expand(path))
    root = os.path.commonpath({os.path.split(file)[0] for file in files})
    return Path(root), [os.path.relpath(file, root) for file in files]


def _expand(path: Path) -> list[str]:
    """Returns absolute paths as strings, which need a fraction of the memory of a Path."""
    absolute = os.path.abspath(path)  # noqa: PTH100  Path.resolve follows links
    if path.is_file():
        return [absolute]
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such image, folder or video")
    with os.scandir(absolute) as entries:
        files = sorted(x.path for x in entries if x.name.lower().endswith(IMAGES) and x.is_file())
    if not files:
        raise ValueError(
            f"{path}: has no image; expected files of {' '.join(IMAGES)} in it, not in subfolders"
        )
    return files


def is_video(name: str) -> bool:
    """Returns whether a file has the name of a video."""
    return name.lower().endswith(VIDEOS)


@contextmanager
def _open_video(file: Path) -> Iterator[Any]:
    capture = cv2.VideoCapture(str(file))
    try:
        yield capture
    finally:
        capture.release()


def count_frames(video: Path) -> int:
    """Returns the number of frames in a video's header, 0 if unknown."""
    with _open_video(video) as capture:
        return max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


def read_pictures(file: Path, input_format: str) -> Iterator[Pixels]:
    """Yields an image, or each frame of a video, upright and in the channels of ``INPUT.FORMAT``.

    Raises:
        UnreadableError: a file is damaged, of another kind, or not safe to decode; for a video
            after its readable frames.
    """
    if not is_video(file.name):
        yield _read_image(file, input_format)
        return
    number, expected = 0, count_frames(file)
    with _open_video(file) as capture:
        ok, frame = capture.read()
        while ok:
            number += 1
            rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            yield convert_PIL_to_numpy(Image.fromarray(rgb), input_format)
            ok, frame = capture.read()
    if number == 0:
        raise UnreadableError("not a video that OpenCV can read")
    if number < MIN_FRAMES * expected:
        raise UnreadableError(f"ends after {number} of {expected} frames")


def _read_image(file: Path, input_format: str) -> Pixels:
    try:
        with file.open("rb") as stream, open_checked_image(stream):
            return read_image(str(file), format=input_format)
    except Exception as error:  # a broken file makes Pillow raise errors of many types
        raise UnreadableError(error_reason(error, str(file))) from error


@contextmanager
def picture_writer(source: Path, target: Path) -> Iterator[Callable[[Pixels], None]]:
    """Yields a function that writes RGB pictures to a file: an image, or a video's frames.

    Appends ".jpg" or ".mp4" to a ``target`` of a kind that cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_video(source.name):
        file = _with_suffix(target, IMAGES, ".jpg")
        yield lambda picture: Image.fromarray(picture).save(file)
        return
    with _open_video(source) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE
    file = _with_suffix(target, (".mp4",), ".mp4")
    writers: list[Any] = []  # one, of the size of the first picture

    def write(picture: Pixels) -> None:
        if not writers:
            code, size = cv2.VideoWriter.fourcc(*CODEC), picture.shape[1::-1]
            writers.append(cv2.VideoWriter(str(file), code, rate, size))
            if not writers[0].isOpened():
                raise OSError(f"{file}: OpenCV cannot write this video")
        writers[0].write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    try:
        yield write
    finally:
        for writer in writers:
            writer.release()


def _with_suffix(file: Path, known: Sequence[str], suffix: str) -> Path:
    return file if file.suffix.lower() in known else file.with_name(file.name + suffix)
