"""ImageNet's ResNets with a stem for CIFAR: one 3x3 convolution, no pooling, four stages.

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


class BasicBlock(ActivatedBlock):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = build_shortcut(in_channels, channels, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """The sum of both branches: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out + self.shortcut(x)


class Bottleneck(ActivatedBlock):
    """A 3x3 convolution at a quarter of the width, between 1x1 ones, beside a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = build_shortcut(in_channels, out_channels, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """The sum of both branches: (N, C_in, H, W) -> (N, 4 C, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)


class FourStageResNet(StagedNetwork):
    """A stem of 64 channels, four stages, one linear layer.

    Args:
        block: of the stages.
        blocks: number in each stage.
        num_classes: K.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int = 100,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = build_stage(block, 64, 64, blocks[0], stride=1)
        self.layer2 = build_stage(block, 64 * block.expansion, 128, blocks[1], stride=2)
        self.layer3 = build_stage(block, 128 * block.expansion, 256, blocks[2], stride=2)
        self.layer4 = build_stage(block, 256 * block.expansion, 512, blocks[3], stride=2)
        self.linear = nn.Linear(512 * block.expansion, num_classes)
        init_convolutions(self)

    def features(self, x: Tensor) -> Features:
        """Five maps, of stride 1, 1, 2, 4 and 8."""
        stem = F.relu(self.bn1(self.conv1(x)))
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        maps, preactivation = run_stages(stem, stages)
        pooled = global_average(maps[-1])
        return Features(maps, preactivation, pooled, self.linear(pooled))


def build_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The identity where shapes agree, otherwise a 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


def build_stage(
    block: type[BasicBlock] | type[Bottleneck],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
) -> nn.Sequential:
    """Blocks of one width, the first with the stride."""
    widths = [in_channels] + [channels * block.expansion] * (blocks - 1)
    strides = [stride] + [1] * (blocks - 1)
    return nn.Sequential(*(block(w, channels, s) for w, s in zip(widths, strides, strict=True)))


FOUR_STAGE_RESNETS: dict[str, Callable[..., FourStageResNet]] = {
    "ResNet18": partial(FourStageResNet, BasicBlock, (2, 2, 2, 2)),
    "ResNet50": partial(FourStageResNet, Bottleneck, (3, 4, 6, 3)),
}
