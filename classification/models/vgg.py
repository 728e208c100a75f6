"""VGG networks with batch norm for CIFAR: one linear layer on the averaged last map.

Legend: N batch, C channels, H and W map size, K classes.
"""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.base import (
    Features,
    StagedNetwork,
    global_average,
    init_classifier,
    init_convolutions,
)

WIDTHS = (64, 128, 256, 512, 512)


class VGG(StagedNetwork):
    """Five stages of 3x3 ``convolutions``, each but the last two followed by a 2x2 maximum."""

    def __init__(
        self, convolutions: tuple[int, int, int, int, int], num_classes: int = 100
    ) -> None:
        super().__init__()
        in_channels = (3, *WIDTHS)
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            build_convolutions(in_channels[i], WIDTHS[i], n) for i, n in enumerate(convolutions)
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def features(self, x: Tensor) -> Features:
        """Returns five maps, of stride 1, 2, 4, 8 and 8 (16 for images of 64 pixels or more)."""
        # The released code pools a fourth time for 64 pixels alone, the size of Tiny ImageNet.
        pool_last = x.shape[2] >= 64
        maps = [F.relu(self.block0(x))]
        preactivation = [maps[0]]  # as in the released code: the stem after its ReLU
        for block in (self.block1, self.block2, self.block3, self.block4):
            pool = block is not self.block4 or pool_last
            preactivation.append(block(F.max_pool2d(maps[-1], 2) if pool else maps[-1]))
            maps.append(F.relu(preactivation[-1]))
        pooled = global_average(maps[-1])
        return Features(maps, preactivation, pooled, self.classifier(pooled))


def build_convolutions(in_channels: int, channels: int, count: int) -> nn.Sequential:
    """Builds convolutions with batch norm, with a ReLU between them and none at the end."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels)]
        layers += [nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


VGGS: dict[str, Callable[..., VGG]] = {
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
}
