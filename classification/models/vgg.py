"""VGG networks with batch norm for CIFAR: one linear layer on the averaged last map.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.features import Features
from classification.models.staged import StagedNetwork, global_average, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)


class VGG(StagedNetwork):
    """Five stages of 3x3 convolutions, each but the last two followed by a 2x2 maximum.

    Args:
        convolutions: number in each stage.
        num_classes: K.
    """

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], num_classes: int = 100
    ) -> None:
        super().__init__()
        in_channels = (3, *WIDTHS)
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            build_stage(in_channels[i], WIDTHS[i], n) for i, n in enumerate(convolutions)
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        init_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> Features:
        """Five maps, of stride 1, 2, 4, 8 and 8 (16 for images of 64 pixels or more)."""
        # The released code pools a fourth time for 64 pixels alone, the size of Tiny ImageNet.
        pool_last = x.shape[2] >= 64
        maps = [F.relu(self.block0(x))]
        preactivation = [maps[0]]  # like the released code, which shows the stem behind its ReLU
        for block in (self.block1, self.block2, self.block3, self.block4):
            pool = block is not self.block4 or pool_last
            preactivation.append(block(F.max_pool2d(maps[-1], 2) if pool else maps[-1]))
            maps.append(F.relu(preactivation[-1]))
        pooled = global_average(maps[-1])
        return Features(maps, preactivation, pooled, self.classifier(pooled))


def build_stage(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Convolutions with batch norm, with a ReLU between them and none at the end."""
    layers: list[nn.Module] = []
    for i in range(convolutions):
        layers += [nn.ReLU()] if i else []
        layers += [
            nn.Conv2d(channels if i else in_channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        ]
    return nn.Sequential(*layers)


VGGS: dict[str, Callable[..., VGG]] = {
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
}
