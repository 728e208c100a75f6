"""Suite ``growth``: how the head's time and memory grow with the image and with the channels.

Each row compares with the smallest of its kind, so its ratio is how much more it costs.
"""

from collections.abc import Iterator

from fam_det.core import hierarchical_context_loss
from tools.benchmark.head import STRIDES, build_head, distillation, level_maps
from tools.benchmark.measuring import Function
from tools.benchmark.rows import Case

SIZES = ((512, 512), (1024, 512), (1024, 1024), (2048, 1024), (2048, 2048))
WIDTHS = (64, 128, 256, 512)


def cases(device: str) -> Iterator[Case]:
    """Yields areas at 64 channels, then channels at 512 x 512 pixels."""
    width, base = WIDTHS[0], SIZES[0][0] * SIZES[0][1]
    smallest = head_step(SIZES[0], width, device)
    for size in SIZES[1:]:
        area = size[0] * size[1]
        yield Case(
            name=f"{area / 2**20:g} megapixels over {base / 2**20:g}, {width} channels",
            project=head_step(size, width, device),
            reference=smallest,
            growth=("area", area / base),
        )
    for channels in WIDTHS[1:]:
        yield Case(
            name=f"{channels} channels over {width}, {base / 2**20:g} megapixels",
            project=head_step(SIZES[0], channels, device),
            reference=smallest,
            growth=("channels", channels / width),
        )


def head_step(size: tuple[int, int], channels: int, device: str) -> Function:
    """Returns a step of the default head, on the levels of one image."""
    head = build_head(len(STRIDES), channels=channels).to(device)
    return distillation(head, hierarchical_context_loss, level_maps(size, channels, device))
