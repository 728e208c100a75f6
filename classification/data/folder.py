"""Images in one folder a class."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder

from classification.data.images import ImageFiles, ImageSet
from fam_det.data.images import error_reason, open_checked_image


def list_folder(root: str | Path) -> ImageFiles:
    """Lists the image files of ``root/<class>/``, classes and files sorted by name."""
    try:
        folder = ImageFolder(str(root))
    except OSError as error:
        raise ValueError(
            f"{root}: expected a folder with one folder of images a class: {error}"
        ) from error
    paths = [path for path, _ in folder.samples]
    return ImageFiles(paths, torch.tensor(folder.targets), folder.classes)


def load_folder(root: str | Path, size: int) -> ImageSet:
    """Reads the images of ``root/<class>/`` into memory, in several threads.

    An image of another size is scaled until its shorter side fits, and cropped at its centre.
    """
    files = list_folder(root)
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)

    def load(index: int) -> None:
        images[index] = read_pixels(files.paths[index], size)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(load, range(len(files))):
            pass  # raises the first error
    return ImageSet(images, files.labels, files.classes)


def read_pixels(path: str, size: int) -> Tensor:
    """Reads an image file, scaled and cropped to (3, size, size) uint8, RGB."""
    image = open_image(path)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, H, W)


def open_image(path: str) -> Image.Image:
    """Reads an image file in RGB; not turned as its EXIF says, as in torchvision.

    Raises:
        ValueError: a file that is no image, or one that could do harm; the message names it.
    """
    try:
        with Path(path).open("rb") as stream, open_checked_image(stream) as image:
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # a broken file makes Pillow raise errors of many types
        raise ValueError(f"{path}: {error_reason(error, path)}") from error
