"""Augments whole batches on their device.

Legend: N batch, C channels, H and W height and width in pixels, p padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_crops(count: int, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Draws a crop for each of ``count`` images, on the CPU, so that it is the same on any device.

    Returns:
        (3, N) int64: first row and column of the crop in the padded image, 0..2p each, and whether
        it is flipped left to right.
    """
    corners = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.rand(1, count, generator=generator) < 0.5
    return torch.cat([corners, mirrored & flip])


def crop_and_mirror(images: Tensor, crops: Tensor, padding: int) -> Tensor:
    """Crops each zero-padded image to the images' size (N, C, H, W), with one gather for all.

    The crops may be on another device.
    """
    count, channels, height, width = images.shape
    top, left, mirrored = crops.to(images.device, non_blocking=True)
    padded = F.pad(images, (padding,) * 4)  # (N, C, H + 2p, W + 2p)
    rows = top[:, None] + torch.arange(height, device=images.device)  # (N, H)
    across = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(mirrored[:, None] > 0, across.flip(0), across)  # (N, W)
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # (N, H, W)
    flat = pixels.view(count, 1, height * width).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, flat).view_as(images)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Returns (x / 255 - mean) / std in float32, for images (N, C, H, W) uint8 and (C,) numbers."""
    mean, std = (255.0 * value[:, None, None] for value in (mean, std))  # (C, 1, 1)
    return images.to(torch.float32, copy=True).sub_(mean).div_(std)
