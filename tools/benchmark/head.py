"""Suite ``head``: the whole distillation head on the FPN levels of one 800 x 1344 image.

Forward, the loss of every level, and backward, beside ReviewKD's head on the same maps.

Suite ``growth``: how its time and memory grow with the image and with the channels. Each row
compares with the smallest of its kind, so its ratio is how much more it costs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.core import FAMOptions, KnowledgeReview, LayerToLayer, hierarchical_context_loss
from fam_det.core.losses import LOSSES
from tools.benchmark.measuring import Function
from tools.benchmark.references import ReviewKDHead, hierarchical_loss
from tools.benchmark.rows import Case

STRIDES = (4, 8, 16, 32, 64)  # p2 to p6
CHANNELS = 256
AREAS = ((512, 512), (1024, 512), (1024, 1024), (2048, 1024), (2048, 2048))  # of growth
WIDTHS = (64, 128, 256, 512)


def cases(device: str) -> Iterator[Case]:
    """Yields the recipes' head, then what else the keys of fam_det/config.py offer."""
    all_levels, no_p2 = STRIDES, STRIDES[1:]
    full: dict[str, Any] = {"mid_channels": CHANNELS}
    best = {"fusion": None, "fam": FAMOptions(["global"]), "loss": "spectral_correlation"}
    options: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("recipes: layer-to-layer separable, spectral correlation, p3 to p6", best, no_p2),
        ("layer-to-layer separable, spectral correlation", best, all_levels),
        ("FAM-KD separable, full width", full, all_levels),
        ("FAM-KD separable, width 128, p3 to p6", {}, no_p2),
        ("FAM-KD separable, width 128", {}, all_levels),
        ("FAM-KD separable, full width, p3 to p6", full, no_p2),
        ("FAM-KD banded, full width", full | {"fam": FAMOptions(filter="banded")}, all_levels),
        ("FAM + ReviewKD separable, full width", full | {"fusion": "abf"}, all_levels),
        ("layer-to-layer separable", {"fusion": None}, all_levels),
        (
            "ReviewKD by the project",
            full | {"fusion": "abf", "transform": "conv3x3"},
            all_levels,
        ),
    ]
    for name, settings, strides in options:
        yield head_case(name, settings, strides, device)


def head_case(name: str, settings: dict[str, Any], strides: Sequence[int], device: str) -> Case:
    """Compares a head on the levels of some strides with ReviewKD's on all of them."""
    torch.manual_seed(0)
    loss = LOSSES[settings.get("loss", "hierarchical")]
    head = build_head(len(strides), **{k: v for k, v in settings.items() if k != "loss"}).to(device)
    reference = ReviewKDHead(CHANNELS, len(STRIDES)).to(device)
    pyramid = level_maps((800, 1344), CHANNELS, STRIDES, device)
    teacher = [torch.randn_like(x) for x in pyramid]
    skipped = len(STRIDES) - len(strides)
    return Case(
        name=name,
        project=distillation(
            head, lambda x, t: loss(x, t, None), pyramid[skipped:], teacher[skipped:]
        ),
        reference=distillation(reference, hierarchical_loss, pyramid, teacher),
        modules=(head, reference),
        time_goal=0.7,
        memory_goal=0.7,
        seconds=15.0,
    )


def build_head(levels: int, *, channels: int = CHANNELS, **settings: Any) -> nn.Module:
    """Builds a head for FPN maps with defaults as in fam_det/config.py, half as wide within."""
    widths = [channels] * levels
    options: dict[str, Any] = {"mid_channels": channels // 2, "relu": False} | settings
    if options.get("fusion", "") is None:
        del options["fusion"], options["mid_channels"]
        return LayerToLayer(widths, widths, **options)
    return KnowledgeReview(widths, teacher_channels=widths, **options)


def level_maps(
    image: tuple[int, int], channels: int, strides: Sequence[int], device: str
) -> list[Tensor]:
    """Draws random student maps of one image, of ceil(side / stride) cells."""
    return [
        torch.randn(
            1, channels, *(-(-side // stride) for side in image), device=device, requires_grad=True
        )
        for stride in strides
    ]


def distillation(
    head: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
) -> Function:
    """Returns one step of a head: its loss, and the gradients of head and maps, then freed."""

    def loss() -> Tensor:
        losses = [loss_of(x, t) for x, t in zip(head(student), teacher, strict=True)]
        return torch.stack(losses).sum()

    def run() -> None:
        loss().backward()
        for tensor in (*student, *head.parameters()):
            tensor.grad = None

    return run


def growth_cases(device: str) -> Iterator[Case]:
    """Yields areas at 64 channels, then channels at 512 x 512 pixels."""
    smallest = head_step(AREAS[0], WIDTHS[0], device)
    base = AREAS[0][0] * AREAS[0][1]
    for height, width in AREAS[1:]:
        area = height * width
        yield Case(
            name=f"{area / 2**20:g} megapixels over {base / 2**20:g}, {WIDTHS[0]} channels",
            project=head_step((height, width), WIDTHS[0], device),
            reference=smallest,
            growth=("area", area / base),
        )
    for channels in WIDTHS[1:]:
        yield Case(
            name=f"{channels} channels over {WIDTHS[0]}, {base / 2**20:g} megapixels",
            project=head_step(AREAS[0], channels, device),
            reference=smallest,
            growth=("channels", channels / WIDTHS[0]),
        )


def head_step(size: tuple[int, int], channels: int, device: str) -> Function:
    """Returns a step of the default head, on the levels of one image."""
    head = build_head(len(STRIDES), channels=channels).to(device)
    student = level_maps(size, channels, STRIDES, device)
    teacher = [torch.randn_like(x) for x in student]
    return distillation(head, hierarchical_context_loss, student, teacher)
