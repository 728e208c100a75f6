"""ResNets for CIFAR: of three stages, of ImageNet's four stages, and wide ones.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.base import (
    ActivatedBlock,
    ActivatedNetwork,
    Features,
    StagedNetwork,
    build_stage,
    conv1x1,
    conv3x3,
    global_average,
    init_convolutions,
)


class BasicBlock(ActivatedBlock):
    """Two 3x3 convolutions beside a shortcut, which has its name in the released checkpoints."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, *, shortcut_name: str = "downsample"
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut_name = shortcut_name
        self.add_module(shortcut_name, build_shortcut(in_channels, channels, stride))

    def preactivation(self, x: Tensor) -> Tensor:
        """Returns the sum of both branches: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out + getattr(self, self.shortcut_name)(x)


class Bottleneck(ActivatedBlock):
    """A 3x3 convolution at a quarter of the width, between 1x1 ones, beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        mid = channels // 4
        self.conv1 = conv1x1(in_channels, mid)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = conv3x3(mid, mid, stride)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = conv1x1(mid, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = build_shortcut(in_channels, channels, stride)

    def preactivation(self, x: Tensor) -> Tensor:
        """Returns the sum of both branches: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)


def build_shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Builds the identity where shapes agree, otherwise a 1x1 convolution with batch norm."""
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    return nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))


class ResNet(ActivatedNetwork):
    """A stem of one 3x3 convolution without pooling, three or four stages, one linear layer.

    Those of three stages have 6n + 2 layers (He et al., CVPR 2016, section 4.2), with the 1x1
    shortcuts of the released distillation code. The maps have stride 1, 1, 2, 4 and 8; ``widths``
    are the channels of the stem and of each stage, ``blocks`` the blocks of each.
    """

    def __init__(
        self,
        block: Callable[[int, int, int], ActivatedBlock],
        blocks: Sequence[int],
        widths: Sequence[int],
        classifier_name: str,
        num_classes: int = 100,
    ) -> None:
        stem = conv3x3(3, widths[0])
        stages = [
            build_stage(block, widths[i], widths[i + 1], blocks[i], stride=1 if i == 0 else 2)
            for i in range(len(blocks))
        ]
        classifier = nn.Linear(widths[-1], num_classes)
        super().__init__(stem, stages, classifier, classifier_name=classifier_name)
        init_convolutions(self)


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
        """Runs the whole block: (N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        return self.after_norm(x, self.bn1(x))

    def after_norm(self, x: Tensor, normalized: Tensor) -> Tensor:
        """Runs the block after ``normalized = bn1(x)``; a 1x1 shortcut starts there."""
        activated = F.relu(normalized)
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class WideStage(nn.Module):
    """Blocks of one width, the first with the stride."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.layer = build_stage(WideBlock, in_channels, channels, blocks, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the input after the first norm (N, C_in, H, W), and the map (N, C, H', W')."""
        # The released code calls this norm a second time for its output, which in training updates
        # the running statistics twice. Here it is computed once.
        first: Any = self.layer[0]
        normalized = first.bn1(x)
        x = first.after_norm(x, normalized)
        return normalized, self.layer[1:](x)


class WideResNet(StagedNetwork):
    """Wide ResNet without dropout (Zagoruyko and Komodakis, BMVC 2016), of 6n + 4 layers.

    A block starts with batch norm and ReLU, so a stage ends in a plain sum. Its pre-activation is
    that sum after the next batch norm, as in the overhaul of feature distillation (arXiv
    1904.01866). A stage has n ``blocks``, and 16, 32 or 64 times ``width`` channels.
    """

    def __init__(self, blocks: int, width: int, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        self.block1 = WideStage(16, 16 * width, blocks, stride=1)
        self.block2 = WideStage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = WideStage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Features:
        """Returns four maps, of stride 1, 1, 2 and 4; the stem's is before any norm."""
        stem = self.conv1(x)
        _, map1 = self.block1(stem)
        normalized1, map2 = self.block2(map1)
        normalized2, map3 = self.block3(map2)
        normalized3 = self.bn1(map3)
        pooled = global_average(F.relu(normalized3))
        preactivation = [stem, normalized1, normalized2, normalized3]
        return Features([stem, map1, map2, map3], preactivation, pooled, self.fc(pooled))


def of_three_stages(depth: int, widths: Sequence[int]) -> Callable[..., ResNet]:
    """Returns a builder of the ResNet of 6n + 2 layers."""
    return partial(ResNet, BasicBlock, [(depth - 2) // 6] * 3, widths, "fc")


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
RESNETS: dict[str, Callable[..., StagedNetwork]] = {
    **{f"resnet{depth}": of_three_stages(depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": of_three_stages(depth, WIDE) for depth in (8, 32)},
    "ResNet18": partial(
        ResNet,
        partial(BasicBlock, shortcut_name="shortcut"),
        (2, 2, 2, 2),
        (64, 64, 128, 256, 512),
        "linear",
    ),
    "ResNet50": partial(ResNet, Bottleneck, (3, 4, 6, 3), (64, 256, 512, 1024, 2048), "linear"),
    **{
        f"wrn_{depth}_{width}": partial(WideResNet, (depth - 4) // 6, width)
        for depth in (16, 40)
        for width in (1, 2)
    },
}
