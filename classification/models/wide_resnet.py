"""Wide ResNets for CIFAR, without dropout (Zagoruyko and Komodakis, BMVC 2016).

A block starts with batch norm and ReLU, so a stage ends in a plain sum. Its pre-activation is that
sum behind the next batch norm, as the overhaul of feature distillation has it (arXiv 1904.01866).

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.features import Features
from classification.models.staged import (
    StagedNetwork,
    conv1x1,
    conv3x3,
    global_average,
    init_convolutions,
)


class WideBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.convShortcut = None
        if in_channels != channels:
            self.convShortcut = conv1x1(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The whole block: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        return self.after_norm(x, self.bn1(x))

    def after_norm(self, x: Tensor, normalized: Tensor) -> Tensor:
        """What follows ``normalized = bn1(x)``; a change of width has its shortcut behind it."""
        activated = F.relu(normalized)
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class WideStage(nn.Module):
    """Blocks of one width, the first with the stride."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = WideBlock(in_channels, channels, stride)
        self.layer = nn.Sequential(
            first, *(WideBlock(channels, channels, 1) for _ in range(blocks - 1))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input behind the first norm (N, C_in, H, W), and the map (N, C, H', W')."""
        # The released code calls that norm once more to show its output, which in training updates
        # the running statistics twice. Here it is the value on the way.
        blocks: list[Any] = list(self.layer)
        first = blocks.pop(0)
        normalized = first.bn1(x)
        x = first.after_norm(x, normalized)
        for block in blocks:
            x = block(x)
        return normalized, x


class WideResNet(StagedNetwork):
    """A stem of one convolution, three stages, one linear layer.

    Args:
        depth: 6n + 4 layers.
        width: the stages have 16, 32 and 64 times as many channels.
        num_classes: K.

    Raises:
        ValueError: another depth.
    """

    def __init__(self, depth: int, width: int, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth: got {depth}, expected 10, 16, 22, ... (6n + 4)")
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(3, 16)
        self.block1 = WideStage(16, 16 * width, blocks, stride=1)
        self.block2 = WideStage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = WideStage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Features:
        """Four maps, of stride 1, 1, 2 and 4; the stem's is before any norm."""
        stem = self.conv1(x)
        _, map1 = self.block1(stem)
        normalized1, map2 = self.block2(map1)
        normalized2, map3 = self.block3(map2)
        normalized3 = self.bn1(map3)
        pooled = global_average(F.relu(normalized3))
        return Features(
            [stem, map1, map2, map3],
            [stem, normalized1, normalized2, normalized3],
            pooled,
            self.fc(pooled),
        )


WIDE_RESNETS: dict[str, Callable[..., WideResNet]] = {
    f"wrn_{depth}_{width}": partial(WideResNet, depth, width)
    for depth in (16, 40)
    for width in (1, 2)
}
