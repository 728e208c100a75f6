"""ShuffleNet for CIFAR, three groups (Zhang et al., CVPR 2018), with a 1x1 stem of stride 1.

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
GROUPS = 3


class ShuffleUnit(ActivatedBlock):
    """Grouped 1x1 convolutions around a channel shuffle and a 3x3 filter of each channel.

    Stride 1 adds the input, stride 2 concatenates its average, so ``channels`` has both.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = channels - in_channels if stride == 2 else channels
        mid = branch // 4
        # the stem has too few channels to be split
        self.groups = 1 if in_channels == STEM_CHANNELS else GROUPS
        self.conv1 = conv1x1(in_channels, mid, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = conv3x3(mid, mid, stride, depthwise=True)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = conv1x1(mid, branch, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(branch)

    def preactivation(self, x: Tensor) -> Tensor:
        """Both branches joined: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out = channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        # The paper has no ReLU here; the released network has.
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return out + x
        return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)


class ShuffleNetV1(StagedNetwork):
    """A stem of 24 channels, three stages, one linear layer.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = conv1x1(3, STEM_CHANNELS)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.layer1 = build_stage(STEM_CHANNELS, 240, units=4)
        self.layer2 = build_stage(240, 480, units=8)
        self.layer3 = build_stage(480, 960, units=4)
        self.linear = nn.Linear(960, num_classes)

    def features(self, x: Tensor) -> Features:
        """Four maps, of stride 1, 2, 4 and 8."""
        stem = F.relu(self.bn1(self.conv1(x)))
        maps, preactivation = run_stages(stem, (self.layer1, self.layer2, self.layer3))
        pooled = global_average(maps[-1])
        return Features(maps, preactivation, pooled, self.linear(pooled))


def build_stage(in_channels: int, channels: int, units: int) -> nn.Sequential:
    """A unit of stride 2, then units of stride 1."""
    first = ShuffleUnit(in_channels, channels, stride=2)
    rest = (ShuffleUnit(channels, channels, stride=1) for _ in range(units - 1))
    return nn.Sequential(first, *rest)


SHUFFLENETS_V1: dict[str, Callable[..., ShuffleNetV1]] = {"ShuffleV1": ShuffleNetV1}
