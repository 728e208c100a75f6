"""ResNets for CIFAR with three stages of 6n + 2 layers (He et al., CVPR 2016, section 4.2).

As in the released distillation code, the shortcut of a stage that changes shape is a 1x1
convolution with batch norm. ``x4`` networks are four times as wide, their stem twice.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.features import Features
from classification.models.staged import (
    ActivatedBlock,
    StagedNetwork,
    conv1x1,
    conv3x3,
    global_average,
    init_convolutions,
    run_stages,
)

# channels of the stem and of the three stages
NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


class BasicBlock(ActivatedBlock):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels)
            )

    def preactivation(self, x: Tensor) -> Tensor:
        """The sum of both branches: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out + (x if self.downsample is None else self.downsample(x))


class ResNet(StagedNetwork):
    """A stem of one convolution, three stages, one linear layer.

    Args:
        depth: 6n + 2 layers.
        widths: channels of the stem and of each stage.
        num_classes: K.

    Raises:
        ValueError: another depth.
    """

    def __init__(
        self, depth: int, widths: tuple[int, int, int, int], num_classes: int = 100
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth: got {depth}, expected 8, 14, 20, ... (6n + 2)")
        blocks = (depth - 2) // 6
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = build_stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = build_stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = build_stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Features:
        """Four maps, of stride 1, 1, 2 and 4."""
        stem = F.relu(self.bn1(self.conv1(x)))
        maps, preactivation = run_stages(stem, (self.layer1, self.layer2, self.layer3))
        pooled = global_average(maps[-1])
        return Features(maps, preactivation, pooled, self.fc(pooled))


def build_stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width, the first with the stride."""
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


RESNETS: dict[str, Callable[..., ResNet]] = {
    **{f"resnet{depth}": partial(ResNet, depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(ResNet, depth, WIDE) for depth in (8, 32)},
}
