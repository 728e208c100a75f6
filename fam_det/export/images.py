"""The image that exports are traced with, compared on and timed with."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image


def example_image(cfg: CfgNode, file: Path | None, size: tuple[int, int] | None) -> Tensor:
    """An image (3, H, W), float32 pixels of 0 to 255 in the order of ``INPUT.FORMAT``.

    Args:
        cfg: of the detector.
        file: a photograph; None for noise, in which a trained detector finds little.
        size: (H, W); None for that of ``INPUT.MIN_SIZE_TEST``.

    Raises:
        ValueError: a file that is not there or no image.
    """
    if file is None:
        height, width = size or noise_size(cfg)
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (3, height, width), generator=generator).float()
    try:
        pixels = read_image(str(file), format=cfg.INPUT.FORMAT)
    except OSError as error:
        raise ValueError(f"--image: {file}: {error}") from error
    shortest = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST or 800, cfg.INPUT.MAX_SIZE_TEST)
    resize = T.Resize(size) if size else shortest
    resized = resize.get_transform(pixels).apply_image(pixels)  # (H, W, 3)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))


def noise_size(cfg: CfgNode) -> tuple[int, int]:
    """(H, W) of a 4 to 3 image whose shorter side is ``INPUT.MIN_SIZE_TEST``; 0 is no resizing."""
    height = cfg.INPUT.MIN_SIZE_TEST or 800
    return height, min(height * 4 // 3, max(cfg.INPUT.MAX_SIZE_TEST, height))
