"""What the project is compared with, as plain formulas with plain automatic differentiation.

The tests hold each of them equal to the project's own module in value and gradient; ReviewKD's head
equals a KnowledgeReview with ReviewKD's parts.

Legend: N batch, C channels, C_in and C_out those of a student and a teacher, H and W map size, k
window side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core import FrequencyAttention, WindowCrossAttention, high_pass_response
from fam_det.core.filters import DenseFilter


class FullSpectrumAttention(nn.Module):
    """The frequency attention module as the paper writes it (arXiv 2403.05894, section 3).

    A complex filter over the full plane, a full complex transform, an einsum over the channels, the
    high-pass filter, and the real part of the inverse transform.

    Args:
        fam: a module with the dense filter, whose parameters are taken.
    """

    h: Tensor

    def __init__(self, fam: FrequencyAttention) -> None:
        super().__init__()
        assert fam.size is not None
        assert fam.local is not None
        assert isinstance(fam.filter, DenseFilter)
        height, width = fam.size
        half = fam.filter.spectrum(height, width).detach()
        k = full_plane(half, width).permute(2, 3, 0, 1)  # (C_in, C_out, H, W)
        self.k = nn.Parameter(k.contiguous())
        self.local = nn.Conv2d(fam.in_channels, fam.out_channels, 1).to(half.real.dtype)
        self.local.load_state_dict(fam.local.state_dict())
        self.gamma_global = nn.Parameter(fam.gamma_global.detach().clone())
        self.gamma_local = nn.Parameter(fam.gamma_local.detach().clone())
        h = high_pass_response(
            fam.high_pass, height, width, cutoff=fam.cutoff, order=fam.order, dtype=half.real.dtype
        )
        self.register_buffer("h", full_plane(h, width).to(half.device))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        spectrum = torch.einsum("nihw,iohw->nohw", torch.fft.fft2(x, norm="ortho"), self.k)
        global_branch = torch.fft.ifft2(self.h * spectrum, norm="ortho").real
        return self.gamma_global * global_branch + self.gamma_local * self.local(x)


def full_plane(half: Tensor, width: int) -> Tensor:
    """(H, V, ...) of the half plane -> (H, W, ...), by K(-u, -v) = conj K(u, v)."""
    mirrored = torch.roll(half.flip(0), 1, 0)[:, 1 : (width + 1) // 2].flip(1)
    return torch.cat([half, mirrored.conj().resolve_conj()], dim=1)


class UnfoldAttention(nn.Module):
    """Window cross attention with every window copied out, as in the released code.

    Args:
        attention: a module whose parameters are taken.
    """

    def __init__(self, attention: WindowCrossAttention) -> None:
        super().__init__()
        self.window = attention.window
        self.query, self.key, self.value = (
            nn.Conv2d(attention.channels, attention.channels, 1, bias=False) for _ in range(3)
        )
        self.row_offset, self.column_offset = (
            nn.Parameter(torch.empty(attention.channels // 2, self.window)) for _ in range(2)
        )
        self.to(attention.row_offset)
        self.load_state_dict(attention.state_dict())

    def forward(self, student_map: Tensor, residual: Tensor) -> Tensor:
        """Fuse two maps of one shape, (N, C, H, W) each, to one."""
        k, c = self.window, self.row_offset.shape[0]
        padded = F.pad(student_map, [k // 2] * 4)
        query = self.query(residual)[..., None]  # (N, C, H, W, 1)
        key, value = (
            conv(padded).unfold(2, k, 1).unfold(3, k, 1)  # (N, C, H, W, k, k)
            for conv in (self.key, self.value)
        )
        by_row, by_column = key.split(c, dim=1)
        by_row = by_row + self.row_offset[:, None, None, :, None]
        by_column = by_column + self.column_offset[:, None, None, None, :]
        weight = (query * torch.cat([by_row, by_column], dim=1).flatten(4)).softmax(-1)
        return torch.einsum("nchwk,nchwk->nchw", weight, value.flatten(4))


class ReviewKDHead(nn.Module):
    """ReviewKD's head for detection (Chen et al., CVPR 2021), on FPN levels of one width.

    From the deepest level up: a 1x1 convolution with BatchNorm, ABF with the upsampled residual,
    and a 3x3 convolution with BatchNorm.

    Args:
        channels: C, of student and teacher.
        levels: number of feature maps.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(_conv_norm(channels, 1) for _ in range(levels))
        self.gate = nn.ModuleList(nn.Conv2d(2 * channels, 2, 1) for _ in range(levels - 1))
        self.transform = nn.ModuleList(_conv_norm(channels, 3) for _ in range(levels))

    def forward(self, student_maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C, H, W), shallow to deep, to maps for the comparison with the teacher's."""
        outputs: list[Tensor] = []
        residual: Tensor | None = None
        for i in reversed(range(len(student_maps))):
            x = self.project[i](student_maps[i])
            if residual is not None:
                y = F.interpolate(residual, x.shape[2:], mode="nearest")
                z = torch.sigmoid(self.gate[i](torch.cat([x, y], dim=1)))  # (N, 2, H, W)
                x = x * z[:, :1] + y * z[:, 1:]
            residual = x
            outputs.insert(0, self.transform[i](x))
        return outputs


def hierarchical_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """ReviewKD's loss on one level, each pooled map pooled on its own."""
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= min(student.shape[2:]):
            continue
        weight /= 2.0
        pooled, target = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
        loss = loss + weight * F.mse_loss(pooled, target)
        total += weight
    return loss / total


def _conv_norm(channels: int, side: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
