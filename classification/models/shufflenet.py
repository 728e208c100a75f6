"""ShuffleNets for CIFAR, with a 1x1 stem of stride 1: four maps, of stride 1, 2, 4 and 8.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.base import (
    ActivatedBlock,
    ActivatedNetwork,
    build_stage,
    conv1x1,
    conv3x3,
)

STEM_CHANNELS = 24
GROUPS = 3  # of V1


class ShuffleUnit(ActivatedBlock):
    """V1's unit: grouped 1x1 convolutions around a shuffle and a 3x3 filter of each channel.

    Stride 1 adds the input, stride 2 concatenates its average, so ``channels`` has both.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = channels - in_channels if stride == 2 else channels
        mid = branch // 4
        # The stem has too few channels for groups.
        self.groups = 1 if in_channels == STEM_CHANNELS else GROUPS
        self.conv1 = conv1x1(in_channels, mid, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = conv3x3(mid, mid, stride, depthwise=True)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = conv1x1(mid, branch, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(branch)

    def preactivation(self, x: Tensor) -> Tensor:
        """Joins both branches: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out = F.channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        # The paper has no ReLU here; the released network has.
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return out + x
        return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)


class ShuffleNetV1(ActivatedNetwork):
    """ShuffleNet of three groups (Zhang et al., CVPR 2018)."""

    def __init__(self, num_classes: int = 100) -> None:
        stem = conv1x1(3, STEM_CHANNELS)
        stages = [
            build_stage(ShuffleUnit, c_in, c, blocks, stride=2)
            for c_in, c, blocks in ((STEM_CHANNELS, 240, 4), (240, 480, 8), (480, 960, 4))
        ]
        super().__init__(stem, stages, nn.Linear(960, num_classes))


class SplitUnit(ActivatedBlock):
    """V2's unit of stride 1: transforms one half of the channels, keeps the other, shuffles."""

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
        """Returns the kept half, then the transformed one: (N, C, H, W), same shape."""
        kept, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        return torch.cat([kept, self.bn3(self.conv3(out))], 1)

    def activation(self, x: Tensor) -> Tensor:
        """Applies the ReLU, which leaves the kept half as it is, then shuffles."""
        return F.channel_shuffle(F.relu(x), 2)


class DownUnit(nn.Module):
    """V2's unit of stride 2: two branches, shuffled."""

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
        return F.channel_shuffle(F.relu(torch.cat([left, right], 1)), 2)


class ShuffleNetV2(ActivatedNetwork):
    """ShuffleNetV2 1x (Ma et al., ECCV 2018); its pre-activations are not shuffled yet."""

    def __init__(self, num_classes: int = 100) -> None:
        stem = conv1x1(3, STEM_CHANNELS)
        stages = [
            nn.Sequential(DownUnit(c_in, c), *(SplitUnit(c) for _ in range(split_units)))
            for c_in, c, split_units in ((STEM_CHANNELS, 116, 3), (116, 232, 7), (232, 464, 3))
        ]
        last = conv1x1(464, 1024)
        super().__init__(stem, stages, nn.Linear(1024, num_classes), last=last)


SHUFFLENETS: dict[str, Callable[..., ActivatedNetwork]] = {
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2": ShuffleNetV2,
}
