"""What an image file must be to be decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image, UnidentifiedImageError

# Pillow's own, from which on it warns of a decompression bomb: a quarter of a gigabyte in RGB.
MAX_PIXELS = 89_478_485
# Pillow's modes that its conversion to RGB cuts off at 255, so that nearly all of it is white.
DEEP_MODES = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")


@contextmanager
def opened(stream: IO[bytes]) -> Iterator[Image.Image]:
    """An image that has passed the checks of its head; it is not decoded yet.

    Raises:
        ValueError: what is no image, or one that is too big, of too many bits, or a program.
        OSError: a file that cannot be read.
    """
    try:
        image = Image.open(stream)
    except UnidentifiedImageError as error:
        stream.seek(0, 2)
        kind = "not an image, or of an unknown format" if stream.tell() else "is empty"
        raise ValueError(kind) from error
    with image:
        _check(image)
        yield image


def _check(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels, expected at most {MAX_PIXELS:,} (a decompression bomb?); "
            "cut it into tiles"
        )
    if image.mode in DEEP_MODES:
        raise ValueError(f"16 or 32 bits a pixel ({image.mode}); convert it to 8 bits a channel")
    if image.format == "EPS":
        raise ValueError("a PostScript program, which Ghostscript would run; convert it to PNG")
