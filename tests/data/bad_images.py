"""Image files that no training can use, and unusual ones that it can."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIZE = (96, 64)  # width, height


def noise(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of one colour, a few kilobytes for millions of pixels."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + -(-width // 8))), 9)
    parts = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def rotated() -> bytes:
    """A JPEG that a camera held upright took: 64 wide and 96 high once its EXIF is applied."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


def deep(kind: str, dtype: type = np.uint16) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 60_000, (SIZE[1], SIZE[0])).astype(dtype)
    return encoded(Image.fromarray(pixels), kind)


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 96 64
%%EndComments
(run) print
%%EOF
"""
OTHERS = [noise().rotate(180)] * 2

BAD = {
    "empty": (b"", "is empty"),
    "text": (b"version https://git-lfs.github.com/spec/v1", "not an image, or of an unknown"),
    "truncated JPEG": (encoded(noise(), "JPEG")[:1500], "truncated"),
    "truncated PNG": (encoded(noise(), "PNG")[:1500], "truncated"),
    "cut in its head": (encoded(noise(), "PNG")[:20], "Truncated"),
    "16 bits, PNG": (deep("PNG"), "16 or 32 bits a pixel (I;16); convert it to 8 bits a channel"),
    "16 bits, TIFF": (deep("TIFF"), "16 or 32 bits a pixel"),
    "floats, TIFF": (deep("TIFF", np.float32), "16 or 32 bits a pixel (F)"),
    "bomb": (bomb(9_500, 9_500), "9500x9500 pixels, expected at most 89,478,485"),
    "big bomb": (bomb(30_000, 30_000), "decompression bomb"),
    "PostScript": (POSTSCRIPT, "a PostScript program"),
}
# These are read if the annotation file gives their size as a viewer shows it.
GOOD = {
    "grey": encoded(noise("L"), "JPEG"),
    "CMYK": encoded(noise("CMYK"), "JPEG"),
    "transparent": encoded(noise("RGBA"), "PNG"),
    "palette": encoded(noise("P"), "PNG", transparency=0),
    "animated GIF": encoded(noise(), "GIF", save_all=True, append_images=OTHERS),
    "animated PNG": encoded(noise(), "PNG", save_all=True, append_images=OTHERS),
    "animated WebP": encoded(noise(), "WEBP", save_all=True, append_images=OTHERS),
}
