"""The reference formulas in plain operators.

Tests check that each equals the project's module in value and gradient; ReviewKD's head equals a
KnowledgeReview with ReviewKD's parts.

Legend: N batch, C channels, C_in and C_out those of a student and a teacher, H and W map size, k
window side.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core import FrequencyAttention, WindowCrossAttention, high_pass_response
from fam_det.core.filters import DenseFilter, SeparableFilter
from fam_det.core.kernels.spectrum import full_plane, multiplicity
from fam_det.core.losses import BAND_EDGES, EPSILON


class FullSpectrumAttention(nn.Module):
    """The frequency attention module as in the paper (arXiv 2403.05894, section 3).

    A complex filter over the full plane, a full complex transform, an einsum over the channels, the
    high-pass filter, and the real part of the inverse transform; with the parameters of a module
    that has the dense filter.
    """

    h: Tensor

    def __init__(self, fam: FrequencyAttention) -> None:
        super().__init__()
        assert fam.size and fam.local and isinstance(fam.filter, DenseFilter)
        height, width = fam.size
        half = fam.filter.spectrum(height, width).detach()
        k = full_plane(half, width).permute(2, 3, 0, 1)  # (C_in, C_out, H, W)
        self.k = nn.Parameter(k.contiguous())
        parts = (fam.local, fam.gamma_global, fam.gamma_local)
        self.local, self.gamma_global, self.gamma_local = copy.deepcopy(parts)
        h = high_pass_response(
            fam.high_pass, height, width, cutoff=fam.cutoff, order=fam.order, dtype=half.real.dtype
        )
        self.register_buffer("h", full_plane(h, width).to(half.device))

    def forward(self, x: Tensor) -> Tensor:
        """Filters (N, C_in, H, W) -> (N, C_out, H, W)."""
        spectrum = torch.einsum("nihw,iohw->nohw", torch.fft.fft2(x, norm="ortho"), self.k)
        global_branch = torch.fft.ifft2(self.h * spectrum, norm="ortho").real
        return self.gamma_global * global_branch + self.gamma_local * self.local(x)


def unfold_fusion(module: WindowCrossAttention, student_map: Tensor, residual: Tensor) -> Tensor:
    """Returns window cross attention with unfolded windows, as in the released code."""
    query, key, value = module.query(residual), module.key(student_map), module.value(student_map)
    by_row = module.row_offset[:, :, None].expand(-1, -1, module.window)
    by_column = module.column_offset[:, None, :].expand(-1, module.window, -1)
    return unfold_attention(query, key, value, torch.cat([by_row, by_column]))


def unfold_attention(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor) -> Tensor:
    """Returns window attention of maps (N, C, H, W) with offsets (C, k, k), by unfolding."""
    k = offsets.shape[-1]
    keys, values = (
        F.pad(x, [k // 2] * 4).unfold(2, k, 1).unfold(3, k, 1).flatten(4) for x in (key, value)
    )  # (N, C, H, W, k * k)
    logits = query[..., None] * (keys + offsets.flatten(1)[:, None, None])
    return torch.einsum("nchwk,nchwk->nchw", logits.softmax(-1), values)


def convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Returns a 1x1 convolution."""
    return F.conv2d(x, weight[:, :, None, None])


def dense_filter(module: DenseFilter, x: Tensor, response: Tensor, local: Tensor) -> Tensor:
    """Returns the dense filter on half a spectrum, beside a 1x1 convolution."""
    matrices = module.spectrum(*x.shape[2:])  # (H, V, C_in, C_out)
    spectrum = torch.fft.rfft2(x, norm="ortho").permute(2, 3, 0, 1) @ matrices
    filtered = spectrum.permute(2, 3, 0, 1) * response
    return torch.fft.irfft2(filtered, s=x.shape[2:], norm="ortho") + convolution(x, local)


def separable_filter(module: SeparableFilter, x: Tensor, response: Tensor, local: Tensor) -> Tensor:
    """Returns the separable filter on half a spectrum, beside a 1x1 convolution."""
    gains = module.gains(*x.shape[2:]) * response  # (C_in, H, V)
    filtered = torch.fft.rfft2(x, norm="ortho") * gains
    y = torch.fft.irfft2(filtered, s=x.shape[2:], norm="ortho")
    return F.conv2d(y, module.mix.weight) + convolution(x, local)


def correlation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns one minus the correlation of each channel in each octave of frequencies."""
    height, width = student.shape[2:]
    u = 2 * torch.fft.fftfreq(height).abs()[:, None]
    v = 2 * torch.fft.rfftfreq(width)[None, :]
    octave = torch.bucketize(torch.maximum(u, v), torch.tensor(BAND_EDGES), right=True)
    counts = F.one_hot(octave, len(BAND_EDGES) + 1) * multiplicity(width)[:, None]  # (H, V, B)
    counts = counts.to(student)
    centred = (m - m.mean((0, 2, 3), keepdim=True) for m in (student, teacher))
    x, y = (torch.fft.rfft2(m, norm="ortho") for m in centred)
    xx, yy, xy = (
        torch.einsum("nchv,hvb->cb", (p * q.conj()).real, counts)
        for p, q in ((x, x), (y, y), (x, y))
    )
    floor = EPSILON * len(x) * counts.sum((0, 1))
    correlation = xy / ((xx + floor) * (yy + floor)).clamp(min=1e-30).sqrt()
    return 1 - correlation[:, floor > 0].mean()


class ReviewKDHead(nn.Module):
    """ReviewKD's head for detection (Chen et al., CVPR 2021), on FPN levels of one width.

    From the deepest level up: a 1x1 convolution with BatchNorm, ABF with the upsampled residual,
    and a 3x3 convolution with BatchNorm.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(_conv_norm(channels, 1) for _ in range(levels))
        self.gate = nn.ModuleList(nn.Conv2d(2 * channels, 2, 1) for _ in range(levels - 1))
        self.transform = nn.ModuleList(_conv_norm(channels, 3) for _ in range(levels))

    def forward(self, student_maps: Sequence[Tensor]) -> list[Tensor]:
        """Transforms maps (N, C, H, W), shallow to deep, to be compared with the teacher's."""
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
    """Returns ReviewKD's loss on one level, each pooled map pooled separately."""
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in [side for side in (4, 2, 1) if side < min(student.shape[2:])]:
        weight /= 2.0
        pooled, target = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
        loss = loss + weight * F.mse_loss(pooled, target)
        total += weight
    return loss / total


def _conv_norm(channels: int, side: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))
