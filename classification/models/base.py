"""The features of a network, and shared parts of the CIFAR networks.

No ReLU works in place: a distiller may need the map before it.

Legend: N batch, C channels, H and W map size, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Features(NamedTuple):
    """Feature maps of each stage, the stem first, with the pooled feature and the logits.

    Attributes:
        maps: (N, C, H, W) each, shallow to deep: the outputs of the stages, after their last ReLU.
            The stages of pre-activation networks (WRN) end without one.
        preactivation: the same stages before the last ReLU (WRN: after the next batch norm, before
            its ReLU). The stem's entry is ``maps[0]`` if a network has no map before its ReLU.
        pooled: (N, C), the input of the classifier.
        logits: (N, K).
    """

    maps: Sequence[Tensor]
    preactivation: Sequence[Tensor]
    pooled: Tensor
    logits: Tensor


class StagedNetwork(nn.Module, ABC):
    """A classifier that returns its stages' maps along with the logits.

    Every network averages its last map over its whole size, so images need not have 32 pixels.
    """

    @abstractmethod
    def features(self, x: Tensor) -> Features:
        """Returns stage maps, pooled feature and logits of images (N, 3, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits of images: (N, 3, H, W) -> (N, K)."""
        return self.features(x).logits


class ActivatedBlock(nn.Module, ABC):
    """A block that ends in a ReLU."""

    @abstractmethod
    def preactivation(self, x: Tensor) -> Tensor:
        """Runs the block up to its last ReLU: (N, C_in, H, W) -> (N, C, H', W')."""

    def activation(self, x: Tensor) -> Tensor:
        """Runs the rest of the block, from its last ReLU on; same shape."""
        return F.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the whole block: (N, C_in, H, W) -> (N, C, H', W')."""
        return self.activation(self.preactivation(x))


class ActivatedNetwork(StagedNetwork):
    """A stem with batch norm and ReLU, stages of :class:`ActivatedBlock`, one linear layer.

    The linear layer has its name in the released checkpoints. ``last`` is a convolution between the
    stages and the average, followed by batch norm and ReLU.
    """

    def __init__(
        self,
        stem: nn.Conv2d,
        stages: Sequence[nn.Sequential],
        classifier: nn.Linear,
        *,
        classifier_name: str = "linear",
        last: nn.Conv2d | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(stem.out_channels)
        self.stage_names = [f"layer{i}" for i in range(1, len(stages) + 1)]
        for name, stage in zip(self.stage_names, stages, strict=True):
            self.add_module(name, stage)
        self.has_last = last is not None
        if last is not None:
            self.conv2 = last
            self.bn2 = nn.BatchNorm2d(last.out_channels)
        self.classifier_name = classifier_name
        self.add_module(classifier_name, classifier)

    def features(self, x: Tensor) -> Features:
        """Returns the stem's map and one of each stage."""
        maps = [F.relu(self.bn1(self.conv1(x)))]
        preactivation = list(maps)
        for name in self.stage_names:
            blocks: list[Any] = list(self.get_submodule(name).children())
            x = maps[-1]
            for block in blocks[:-1]:
                x = block(x)
            preactivation.append(blocks[-1].preactivation(x))
            maps.append(blocks[-1].activation(preactivation[-1]))
        x = F.relu(self.bn2(self.conv2(maps[-1]))) if self.has_last else maps[-1]
        pooled = global_average(x)
        return Features(maps, preactivation, pooled, getattr(self, self.classifier_name)(pooled))


def build_stage(
    block: Callable[[int, int, int], nn.Module],
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
) -> nn.Sequential:
    """Builds blocks of one width, the first with the stride.

    ``block`` is called with the channels of its input, those of its output, and its stride.
    """
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, 1) for _ in range(blocks - 1)))


def global_average(x: Tensor) -> Tensor:
    """Returns the mean over all positions: (N, C, H, W) -> (N, C)."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def conv3x3(
    in_channels: int, out_channels: int, stride: int = 1, *, depthwise: bool = False
) -> nn.Conv2d:
    """Builds a convolution without a bias: a batch norm follows."""
    groups = in_channels if depthwise else 1
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, **options: Any) -> nn.Conv2d:
    """Builds a convolution without a bias: a batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, **options)


def init_convolutions(network: nn.Module) -> None:
    """Draws convolutions from Kaiming's normal over fan_out, without a bias (arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(linear: nn.Linear) -> None:
    """Draws weights of deviation 0.01 and sets the bias to 0."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
