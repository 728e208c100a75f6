"""ShuffleNetV2 1x for CIFAR (Ma et al., ECCV 2018), with a 1x1 stem of stride 1.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.features import Features
from classification.models.staged import (
    ActivatedBlock,
    StagedNetwork,
    channel_shuffle,
    conv1x1,
    conv3x3,
    global_average,
    run_stages,
)

STEM_CHANNELS = 24
LAST_CHANNELS = 1024


class SplitUnit(ActivatedBlock):
    """Transforms one half of the channels, keeps the other, shuffles both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, depthwise=True)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def preactivation(self, x: Tensor) -> Tensor:
        """The kept half, then the transformed one: (N, C, H, W), same shape."""
        kept, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        return torch.cat([kept, self.bn3(self.conv3(out))], 1)

    def activation(self, x: Tensor) -> Tensor:
        """ReLU, which the kept half has passed already, then the shuffle."""
        return channel_shuffle(F.relu(x), groups=2)


class DownUnit(nn.Module):
    """Two branches of stride 2, shuffled."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv3x3(in_channels, in_channels, stride=2, depthwise=True)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = conv1x1(in_channels, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(in_channels, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, stride=2, depthwise=True)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H / 2, W / 2)."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return channel_shuffle(F.relu(torch.cat([left, right], 1)), groups=2)


class ShuffleNetV2(StagedNetwork):
    """A stem of 24 channels, three stages, a 1x1 convolution, one linear layer.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.layer1 = build_stage(STEM_CHANNELS, 116, split_units=3)
        self.layer2 = build_stage(116, 232, split_units=7)
        self.layer3 = build_stage(232, 464, split_units=3)
        self.conv2 = conv1x1(464, LAST_CHANNELS)
        self.bn2 = nn.BatchNorm2d(LAST_CHANNELS)
        self.linear = nn.Linear(LAST_CHANNELS, num_classes)

    def features(self, x: Tensor) -> Features:
        """Four maps, of stride 1, 2, 4 and 8; pre-activations are not shuffled yet."""
        stem = F.relu(self.bn1(self.conv1(x)))
        maps, preactivation = run_stages(stem, (self.layer1, self.layer2, self.layer3))
        pooled = global_average(F.relu(self.bn2(self.conv2(maps[-1]))))
        return Features(maps, preactivation, pooled, self.linear(pooled))


def build_stage(in_channels: int, channels: int, split_units: int) -> nn.Sequential:
    """A unit of stride 2, then units that split."""
    first = DownUnit(in_channels, channels)
    return nn.Sequential(first, *(SplitUnit(channels) for _ in range(split_units)))


SHUFFLENETS_V2: dict[str, Callable[..., ShuffleNetV2]] = {"ShuffleV2": ShuffleNetV2}
