"""Filtering in the half spectrum of ``torch.fft.rfft2``, forward and backward, in small chunks.

The transforms are orthonormal and in the type of the map; zero frequency first. Written with plain
operators these filters keep several copies of the maps and of their spectra for the backward pass
and spend most of their time on fresh memory. Here the maps are transformed a chunk at a time, small
enough to stay in the processor's cache, and the backward pass keeps one copy.

For real maps the adjoint of ``irfft2`` is ``rfft2`` with the mirrored columns 0 < v < W / 2
doubled, and the adjoint of ``rfft2`` is ``irfft2`` of the spectrum with those columns halved.

Legend: N batch, C_in and C_out channels, H and W map size, V = W // 2 + 1 columns of the half
plane, F = H * V frequencies, G grid size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fam_det.core.kernels import chunks
from fam_det.core.kernels.products import (
    add_pointwise_,
    complex_matmul,
    pointwise,
    pointwise_weight_grad,
)

CHUNK = 2**17  # values that are worked on at once: half a MiB of float32


def rfft2(x: Tensor) -> Tensor:
    """Transforms real maps, zero frequency first: (..., H, W) -> complex (..., H, V)."""
    return torch.fft.rfft2(x, norm="ortho")


def irfft2(x: Tensor, width: int) -> Tensor:
    """Inverts :func:`rfft2`: complex (..., H, V) -> (..., H, W), W = ``width``."""
    return torch.fft.irfft2(x, s=(x.shape[-2], width), norm="ortho")


def multiplicity(width: int) -> Tensor:
    """Counts the columns of the full plane for each of the half plane: 1 or 2, float64 (V,)."""
    v = torch.arange(width // 2 + 1)
    return 1.0 + ((v > 0) & (2 * v < width)).double()


def full_plane(half: Tensor, width: int) -> Tensor:
    """Completes a half plane (H, V, ...) -> (H, W, ...), by K(-u, -v) = conj K(u, v)."""
    mirrored = torch.roll(half.flip(0), 1, 0)  # row i to H - i, row 0 stays
    right = mirrored[:, 1 : (width + 1) // 2].flip(1)  # columns -1, -2, ... without Nyquist
    return torch.cat([half, right.conj().resolve_conj()], dim=1)


def mix_frequencies(x: Tensor, k: Tensor, factor: Tensor, local: Tensor) -> Tensor:
    """Computes IFFT(factor * (FFT(x) @ k)) + local @ x, one matrix a frequency and one for all.

    On column 0 and (even widths) the Nyquist column the Hermitian part of ``k`` acts.

    Args:
        x: (N, C_in, H, W), float32 or float64.
        k: (H, V, C_in, C_out, 2), real and imaginary part.
        factor: (H, V), real and equal at u and -u.
        local: (C_out, C_in), in the dtype to mix the channels in.

    Returns:
        (N, C_out, H, W) of the dtype of ``x``. It can be differentiated once.
    """
    out: Tensor = _MixFrequencies.apply(x, k, factor, local)
    return out


class _MixFrequencies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor, factor: Tensor, local: Tensor) -> Tensor:
        bins = to_bins(x)
        ctx.save_for_backward(x, bins, k, factor, local)
        mixed = complex_matmul(bins, _matrices(k), local.dtype)
        return add_pointwise_(from_bins(mixed, factor, x.shape[3]), local, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, bins, k, factor, local = ctx.saved_tensors
        width, dtype = x.shape[3], local.dtype
        count = multiplicity(width).to(factor)
        matrices = _matrices(k)
        scale = (factor * count).view(-1, 1, 1)
        # The adjoint of irfft2 is rfft2 with mirrored columns doubled: that is in ``scale``.
        d_out = to_bins(grad)  # (F, N, C_out), of the filtered spectrum but for ``scale``
        d_matrices = torch.empty_like(matrices)
        d_bins = d_out if d_out.shape == bins.shape else torch.empty_like(bins)
        d_factor = torch.empty_like(factor).flatten()
        size = max(matrices[0].numel(), bins[0].numel())  # of what .mH copies
        for f in chunks(len(matrices), size, CHUNK, x.device):
            d_chunk = complex_matmul(d_out[f], matrices[f].mH, dtype)
            d_factor[f] = _dot(bins[f], d_chunk)
            complex_matmul(bins[f].mH, d_out[f].mul_(scale[f]), dtype, out=d_matrices[f])
            d_bins[f] = d_chunk  # in place of what has been read, where it fits
        del d_out  # before more memory is taken
        d_k = torch.view_as_real(d_matrices).view_as(k)
        d_factor = d_factor.view_as(factor) * count
        d_x = add_pointwise_(from_bins(d_bins, factor, width), local.T, grad)
        return d_x, d_k, d_factor, pointwise_weight_grad(grad.to(dtype), x.to(dtype))


def to_bins(x: Tensor) -> Tensor:
    """Transforms maps, frequency first: (N, C, H, W) -> complex (F, N, C)."""
    n, c, height, width = x.shape
    shape = (height * (width // 2 + 1), n, c)
    bins = torch.empty(shape, dtype=x.dtype.to_complex(), device=x.device)
    for images in chunks(n, c * height * width, CHUNK, x.device):
        bins[:, images] = rfft2(x[images]).flatten(2).permute(2, 0, 1)
    return bins


def from_bins(bins: Tensor, factor: Tensor, width: int) -> Tensor:
    """Maps of ``factor`` * ``bins``, whose own-mirror columns are made Hermitian in place.

    Args:
        bins: complex (F, N, C).
        factor: (H, V), real and equal at u and -u.
        width: W.

    Returns:
        (N, C, H, W).
    """
    _, n, c = bins.shape
    height, columns = factor.shape
    make_hermitian(bins.view(height, columns, n, c), width)
    out = torch.empty(n, c, height, width, dtype=factor.dtype, device=bins.device)
    for images in chunks(n, c * height * width, CHUNK, bins.device):
        chunk = bins[:, images].permute(1, 2, 0).contiguous().view(-1, c, height, columns)
        out[images] = irfft2(chunk.mul_(factor), width)
    return out


def make_hermitian(half: Tensor, width: int) -> None:
    """Replaces Y(u) by (Y(u) + conj Y(-u)) / 2 on the columns that are their own mirror, in place.

    FFT libraries disagree on what an inverse transform does with the rest.

    Args:
        half: complex (H, V, ...), of a spectrum that is ``width`` columns wide.
        width: W.
    """
    for column in {0, width // 2} if width % 2 == 0 else {0}:
        y = half[:, column]
        y.copy_((y + torch.roll(y.flip(0), 1, 0).conj()).mul_(0.5))  # row 0 stays, i goes to H - i


def filter_channels(
    x: Tensor,
    gain: Tensor,
    by_row: Tensor,
    by_column: Tensor,
    response: Tensor,
    mix: Tensor,
    local: Tensor,
) -> Tensor:
    """Returns mix @ IFFT(response * (by_row @ gain @ by_column^T) * FFT(x)) + local @ x.

    Args:
        x: (N, C_in, H, W), float32 or float64.
        gain: complex (C_in, G, G / 2 + 1), Hermitian on the first and the last column.
        by_row: (H, G), weights of the grid's rows.
        by_column: (V, G / 2 + 1), weights of the grid's columns.
        response: (H, V), real and equal at u and -u.
        mix: (C_out, C_in), in the dtype to mix the channels in.
        local: (C_out, C_in), of the same dtype.

    Returns:
        (N, C_out, H, W) of that dtype. It can be differentiated once, in all but ``by_row`` and
        ``by_column``.
    """
    out: Tensor = _FilterChannels.apply(x, gain, by_row, by_column, response, mix, local)
    return out


class _FilterChannels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        by_row: Tensor,
        by_column: Tensor,
        response: Tensor,
        mix: Tensor,
        local: Tensor,
    ) -> Tensor:
        rows, columns = by_row.to(gain.dtype), by_column.to(gain.dtype)
        ctx.save_for_backward(x, gain, rows, columns, response, mix, local)
        filtered = mix.new_empty(x.shape)
        for c in chunks(x.shape[1], x[:, 0].numel(), CHUNK, x.device):
            k = (rows @ gain[c] @ columns.T).mul_(response)  # (c, H, V)
            filtered[:, c] = irfft2(rfft2(x[:, c]).mul_(k), x.shape[3])
        out = mix.new_empty(len(x), len(mix), *x.shape[2:])
        return add_pointwise_(add_pointwise_(out, mix, filtered, beta=0), local, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, rows, columns, response, mix, local = ctx.saved_tensors
        width = x.shape[3]
        count = multiplicity(width).to(response)
        # Gradient of the filtered map at first; the loop replaces it by that of x, chunk by chunk.
        d_x = pointwise(grad, mix.T).to(x.dtype)
        filtered = mix.new_empty(x.shape)
        d_gain, d_response = torch.empty_like(gain), torch.zeros_like(response)
        for c in chunks(x.shape[1], x[:, 0].numel(), CHUNK, x.device):
            k = rows @ gain[c] @ columns.T  # (c, H, V), without the response
            spectrum, d_out = rfft2(x[:, c]), rfft2(d_x[:, c])
            product = (spectrum.conj() * d_out).sum(0)  # (c, H, V)
            d_response += (product * k.conj()).sum(0).real
            d_gain[c] = rows.T @ product.mul_(response * count) @ columns
            k *= response
            # Filtered again for d_mix: keeping the forward pass's map would cost its memory.
            filtered[:, c] = irfft2(spectrum.mul_(k), width)
            d_x[:, c] = irfft2(d_out.mul_(k.conj_physical_()), width)
        d_mix = pointwise_weight_grad(grad, filtered)
        del filtered  # before more memory is taken
        d_local = pointwise_weight_grad(grad, x.to(grad.dtype))
        add_pointwise_(d_x, local.T, grad)
        return d_x, d_gain, None, None, d_response * count, d_mix, d_local


def _matrices(k: Tensor) -> Tensor:
    """Views (H, V, C_in, C_out, 2) as complex (F, C_in, C_out)."""
    return torch.view_as_complex(k.contiguous()).flatten(0, 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns Re <a, b> of each frequency: complex (F, N, C) twice -> (F,)."""
    flat_a, flat_b = (torch.view_as_real(t).flatten(1) for t in (a, b))
    return torch.bmm(flat_a[:, None], flat_b[:, :, None]).flatten()
