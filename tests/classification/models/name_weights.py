"""Weights that follow from the names of the parameters, and fingerprints of tensors.

Both rest on numpy's RandomState, whose numbers are the same for ever.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def normal_numbers(seed: str, shape: torch.Size) -> Tensor:
    numbers = np.random.RandomState(zlib.crc32(seed.encode())).standard_normal(tuple(shape))
    return torch.as_tensor(numbers)


def set_name_weights(model: nn.Module) -> None:
    """He's variance for what has a fan-in, about 1 for scales, about 0 for offsets."""
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        numbers = normal_numbers(name, value.shape)
        if value.dim() > 1:
            numbers *= (2 / value[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            numbers = 0.5 + numbers.abs()
        else:
            numbers = 0.1 * numbers + float(name.endswith("weight"))
        value.copy_(numbers)


def name_images(size: int, number: int = 2) -> Tensor:
    return normal_numbers("images", torch.Size((number, 3, size, size))).float()


def fingerprint(x: Tensor) -> list[float]:
    """Root mean square, and the product with one fixed random direction, of about that size."""
    x = x.detach().double()
    direction = normal_numbers("direction", x.shape)
    return [x.square().mean().sqrt().item(), ((x * direction).sum() / direction.norm()).item()]
