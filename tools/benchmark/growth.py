"""Suite ``growth``: how the head's time and memory grow with the image and with the channels.

Each row compares with the smallest of its kind, so its ratio is how much more it costs.
"""

from collections.abc import Iterator

import torch

from fam_det.core import hierarchical_context_loss
from tools.benchmark.head import STRIDES, build_head, distillation, level_maps
from tools.benchmark.rows import Case
from tools.benchmark.timing import Function

AREAS = ((512, 512), (1024, 512), (1024, 1024), (2048, 1024), (2048, 2048))  # 0.25 to 4 megapixels
CHANNELS = (64, 128, 256, 512)


def cases(device: str) -> Iterator[Case]:
    """Areas at 64 channels, channels at 512 x 512 pixels."""
    smallest = head_step(AREAS[0], CHANNELS[0], device)
    base = AREAS[0][0] * AREAS[0][1]
    for height, width in AREAS[1:]:
        area = height * width
        yield Case(
            name=f"{area / 2**20:g} megapixels over {base / 2**20:g}, {CHANNELS[0]} channels",
            project=head_step((height, width), CHANNELS[0], device),
            reference=smallest,
            growth=("area", area / base),
        )
    for channels in CHANNELS[1:]:
        yield Case(
            name=f"{channels} channels over {CHANNELS[0]}, {base / 2**20:g} megapixels",
            project=head_step(AREAS[0], channels, device),
            reference=smallest,
            growth=("channels", channels / CHANNELS[0]),
        )


def head_step(size: tuple[int, int], channels: int, device: str) -> Function:
    """The default head, forward and backward, on the levels of one image."""
    head = build_head(len(STRIDES), channels=channels).to(device)
    student = level_maps(size, channels, STRIDES, device)
    teacher = [torch.randn_like(x) for x in student]
    return distillation(head, hierarchical_context_loss, student, teacher)
