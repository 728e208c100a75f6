"""Fuses a student map with the residual from the deeper stages of a knowledge review.

Legend: N batch, C channels, H and W map size, k window side.
"""

import torch
from torch import Tensor, nn

from fam_det.core.checks import check_option
from fam_det.core.kernels.products import pointwise
from fam_det.core.kernels.window_attention import resize_nearest, window_attention


class WindowCrossAttention(nn.Module):
    """Window cross attention of FAM-KD.

    It builds on the stand-alone self-attention of Ramachandran et al., NeurIPS 2019.

    The query comes from the residual, key and value from the k x k window around each position of
    the student map, zero-padded at the border. A learned offset is added to the key: by window row
    in the first half of the channels, by window column in the second. The softmax runs over the
    window, separately for each channel.

    Args:
        channels: C, even.
        window: k, odd.

    Raises:
        ValueError: odd channels or an even window.
    """

    def __init__(self, channels: int, *, window: int = 3) -> None:
        super().__init__()
        is_even = channels >= 2 and channels % 2 == 0
        check_option("channels", channels, is_even, "an even number >= 2")
        check_option("window", window, window >= 1 and window % 2 == 1, "an odd number >= 1")
        self.channels, self.window = channels, window
        self.query, self.key, self.value = (_kaiming_conv(channels) for _ in range(3))
        self.row_offset = nn.Parameter(torch.randn(channels // 2, window))
        self.column_offset = nn.Parameter(torch.randn(channels // 2, window))

    def forward(self, student_map: Tensor, residual: Tensor) -> Tensor:
        """Fuses maps (N, C, H, W) with residuals (N, C, H', W'), resized by the nearest neighbour.

        Raises:
            ValueError: other channels, or another number of residuals.
        """
        check_pair(student_map, residual, self.channels)
        # A 1x1 convolution commutes with resizing: it runs before, on the smaller map.
        query, key, value = (
            pointwise(x, conv.weight.flatten(1))
            for x, conv in (
                (residual, self.query),
                (student_map, self.key),
                (student_map, self.value),
            )
        )
        return window_attention(query, key, value, self._offsets())

    def _offsets(self) -> Tensor:
        """Returns offset of the key for each channel and window position, (C, k, k)."""
        k = self.window
        by_row = self.row_offset[:, :, None].expand(-1, k, k)
        by_column = self.column_offset[:, None, :].expand(-1, k, k)
        return torch.cat([by_row, by_column])


class AttentionBasedFusion(nn.Module):
    """Attention based fusion (ABF) of ReviewKD, Chen et al., CVPR 2021.

    Two maps z1 and z2, from a 1x1 convolution of both inputs and a sigmoid, weigh the student map
    and the residual at every position.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gate = nn.Conv2d(2 * channels, 2, kernel_size=1)

    def forward(self, student_map: Tensor, residual: Tensor) -> Tensor:
        """Fuses maps (N, C, H, W) with residuals (N, C, H', W'), resized by the nearest neighbour.

        Raises:
            ValueError: other channels, or another number of residuals.
        """
        check_pair(student_map, residual, self.channels)
        residual = resize_nearest(residual, student_map.shape[2:])
        z = torch.sigmoid(self.gate(torch.cat([student_map, residual], dim=1)))  # (N, 2, H, W)
        return student_map * z[:, :1] + residual * z[:, 1:]


def check_pair(student_map: Tensor, residual: Tensor, channels: int) -> None:
    """Raises a ValueError unless both are N maps of ``channels`` channels."""
    for name, x in (("student_map", student_map), ("residual", residual)):
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}, expected (N, {channels}, H, W)")
    if len(student_map) != len(residual):
        raise ValueError(f"residual: got {len(residual)} maps, expected {len(student_map)}")


def _kaiming_conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
