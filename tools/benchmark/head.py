"""Suite ``head``: the whole distillation head on the FPN levels of one image.

Forward, the loss of every level, and backward, against ReviewKD's head on the same maps of an
800 x 1344 image. Then the growth of time and memory with the image and with the channels: each row
against the smallest of its kind.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.core import FAMOptions, KnowledgeReview, LayerToLayer
from fam_det.core.losses import hierarchical_context_loss, spectral_correlation_loss
from tools.benchmark.measuring import Case, Function
from tools.benchmark.references import ReviewKDHead, hierarchical_loss

STRIDES = (4, 8, 16, 32, 64)  # p2 to p6
CHANNELS = 256
SIZES = ((512, 512), (1024, 512), (1024, 1024), (2048, 1024), (2048, 2048))
WIDTHS = (64, 128, 256, 512)
FULL = {"mid_channels": CHANNELS}
LAYERS = {"fusion": None}
BEST = LAYERS | {"fam": FAMOptions(["global"]), "loss": spectral_correlation_loss}
REVIEWKD = FULL | {"fusion": "abf", "transform": "conv3x3"}
# By row: options that differ from the defaults of fam_det/config.py, and the number of levels.
HEADS: dict[str, tuple[dict[str, Any], int]] = {
    "recipes: layer-to-layer separable, spectral correlation, p3 to p6": (BEST, 4),
    "layer-to-layer separable, spectral correlation": (BEST, 5),
    "FAM-KD separable, full width": (FULL, 5),
    "FAM-KD separable, width 128, p3 to p6": ({}, 4),
    "FAM-KD separable, width 128": ({}, 5),
    "FAM-KD separable, full width, p3 to p6": (FULL, 4),
    "FAM-KD banded, full width": (FULL | {"fam": FAMOptions(filter="banded")}, 5),
    "FAM + ReviewKD separable, full width": (FULL | {"fusion": "abf"}, 5),
    "layer-to-layer separable": (LAYERS, 5),
    "ReviewKD by the project": (REVIEWKD, 5),
}


def cases(device: str) -> Iterator[Case]:
    """Yields the heads, then their growth; the reference always has all levels."""
    for name, (settings, levels) in HEADS.items():
        torch.manual_seed(0)
        options = dict(settings)
        loss = options.pop("loss", hierarchical_context_loss)
        head = build_head(levels, **options).to(device)
        reference = ReviewKDHead(CHANNELS, len(STRIDES)).to(device)
        maps = level_maps((800, 1344), CHANNELS, device)
        yield Case(
            name=name,
            project=distillation(head, loss, maps[-levels:]),
            reference=distillation(reference, hierarchical_loss, maps),
            modules=(head, reference),
            time_goal=0.7,
            memory_goal=0.7,
            seconds=15.0,
        )
    yield from growth(device)


def growth(device: str) -> Iterator[Case]:
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


def build_head(levels: int, *, channels: int = CHANNELS, **settings: Any) -> nn.Module:
    """Builds a head for FPN maps with defaults as in fam_det/config.py, half as wide within."""
    widths = [channels] * levels
    options: dict[str, Any] = {"mid_channels": channels // 2, "relu": False} | settings
    if options.get("fusion", "") is None:
        del options["fusion"], options["mid_channels"]
        return LayerToLayer(widths, widths, **options)
    return KnowledgeReview(widths, teacher_channels=widths, **options)


def level_maps(size: tuple[int, int], channels: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """Draws random maps of one image, of student and teacher, of ceil(side / stride) cells."""
    shapes = [(1, channels, *(-(-side // stride) for side in size)) for stride in STRIDES]
    return [
        (torch.randn(shape, device=device, requires_grad=True), torch.randn(shape, device=device))
        for shape in shapes
    ]


def distillation(
    head: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    maps: Sequence[tuple[Tensor, Tensor]],
) -> Function:
    """Returns one step of a head: its loss, and the gradients of head and maps, then freed."""
    student, teacher = zip(*maps, strict=True)

    def loss() -> Tensor:
        losses = [loss_of(x, t) for x, t in zip(head(student), teacher, strict=True)]
        return torch.stack(losses).sum()

    def run() -> None:
        loss().backward()
        for tensor in (*student, *head.parameters()):
            tensor.grad = None

    return run
