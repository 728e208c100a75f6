"""What the CIFAR networks share: blocks that show their pre-activation, and the walk over stages.

No ReLU works in place: the map before it is handed out too.

Legend: N batch, C channels, H and W map size, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.features import Features


class StagedNetwork(nn.Module, ABC):
    """A classifier that can show its stages. What a stage shows is on the way to the logits anyway.

    Every network averages its last map over whatever size it has, so that it takes images of other
    sizes than 32 too.
    """

    @abstractmethod
    def features(self, x: Tensor) -> Features:
        """Stage maps, pooled feature and logits of images (N, 3, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images: (N, 3, H, W) -> (N, K)."""
        return self.features(x).logits


class ActivatedBlock(nn.Module, ABC):
    """A block that ends in a ReLU."""

    @abstractmethod
    def preactivation(self, x: Tensor) -> Tensor:
        """The block up to its last ReLU: (N, C_in, H, W) -> (N, C, H', W')."""

    def activation(self, x: Tensor) -> Tensor:
        """What follows, from the last ReLU on: (N, C, H', W') -> (N, C, H', W')."""
        return F.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        """The whole block: (N, C_in, H, W) -> (N, C, H', W')."""
        return self.activation(self.preactivation(x))


def run_stages(stem: Tensor, stages: Iterable[nn.Sequential]) -> tuple[list[Tensor], list[Tensor]]:
    """Run stages of :class:`ActivatedBlock`.

    Args:
        stem: (N, C, H, W), what the first stage sees.
        stages: shallow to deep.

    Returns:
        ``maps`` and ``preactivation`` of :class:`Features`, the stem first in both.
    """
    maps, preactivation = [stem], [stem]
    for stage in stages:
        blocks: list[Any] = list(stage)
        last = blocks.pop()
        x = maps[-1]
        for block in blocks:
            x = block(x)
        preactivation.append(last.preactivation(x))
        maps.append(last.activation(preactivation[-1]))
    return maps, preactivation


def global_average(x: Tensor) -> Tensor:
    """Mean over all positions: (N, C, H, W) -> (N, C)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def conv3x3(
    in_channels: int, out_channels: int, stride: int = 1, *, depthwise: bool = False
) -> nn.Conv2d:
    """Without a bias: a batch norm follows."""
    groups = in_channels if depthwise else 1
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, *, groups: int = 1) -> nn.Conv2d:
    """Without a bias: a batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, groups=groups, bias=False)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave groups of channels, as ShuffleNet (arXiv 1707.01083): (N, C, H, W), same shape."""
    n, c, height, width = x.shape
    by_group = x.reshape(n, groups, c // groups, height, width)
    return by_group.transpose(1, 2).reshape(n, c, height, width)


def init_convolutions(network: nn.Module) -> None:
    """Kaiming normal over fan_out for every convolution, without a bias (arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
