"""MobileNetV2 for CIFAR at half width (Sandler et al., CVPR 2018).

The released network differs from the paper's: strides for images of 32 pixels, ReLU in place of
ReLU6, a 1x1 convolution before the first block's filter too, and widths that are halved without
rounding to eights.

Legend: N batch, C channels, H and W map size, K classes.
"""

from functools import partial

from torch import Tensor, nn

from classification.models.base import (
    Features,
    StagedNetwork,
    build_stage,
    conv1x1,
    conv3x3,
    global_average,
    init_classifier,
    init_convolutions,
)

# (expansion, channels at half width, blocks, stride) of each group of blocks
GROUPS = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)
STEM_CHANNELS = 16
LAST_CHANNELS = 1280
# groups whose output is a stage's map: the last ones of strides 2, 4, 8 and 16
STAGE_ENDS = (1, 2, 4, 6)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without a ReLU; a shortcut where shapes agree."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, expansion: int) -> None:
        super().__init__()
        expanded = in_channels * expansion
        self.conv = nn.Sequential(
            *norm_relu(conv1x1(in_channels, expanded)),
            *norm_relu(conv3x3(expanded, expanded, stride, depthwise=True)),
            conv1x1(expanded, channels),
            nn.BatchNorm2d(channels),
        )
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(StagedNetwork):
    """A stem of stride 2, seven groups of blocks, a 1x1 convolution, one linear layer."""

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = norm_relu(conv3x3(3, STEM_CHANNELS, stride=2))
        self.blocks = nn.ModuleList()
        in_channels = STEM_CHANNELS
        for expansion, channels, blocks, stride in GROUPS:
            block = partial(InvertedResidual, expansion=expansion)
            self.blocks.append(build_stage(block, in_channels, channels, blocks, stride))
            in_channels = channels
        self.conv2 = norm_relu(conv1x1(in_channels, LAST_CHANNELS))
        linear = nn.Linear(LAST_CHANNELS, num_classes)
        self.classifier = nn.Sequential(linear)
        init_convolutions(self)
        init_classifier(linear)

    def features(self, x: Tensor) -> Features:
        """Returns five maps, of stride 2, 2, 4, 8 and 16; only the stem ends in a ReLU."""
        x = self.conv1(x)
        maps = [x]
        for i, group in enumerate(self.blocks):
            x = group(x)
            if i in STAGE_ENDS:
                maps.append(x)
        pooled = global_average(self.conv2(x))
        return Features(maps, list(maps), pooled, self.classifier(pooled))


def norm_relu(conv: nn.Conv2d) -> nn.Sequential:
    """Appends batch norm and ReLU to a convolution."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())
