"""The learnable global filter K of the frequency attention module, in four storages.

A real linear map that commutes with circular shifts is determined by half of its spectrum. Each
filter therefore stores the half plane of ``torch.fft.rfft2``, as a real tensor whose last dimension
holds the real and the imaginary part: data-parallel training, fused optimisers and gradient scalers
all take real parameters only.

The columns v that also stand for their mirror image -v are stored sqrt(2) times as large. With
that, plain SGD moves the half spectrum exactly as it moves the full complex one of the released
code. Column 0 and (even widths) the Nyquist column are their own mirror images; only their
Hermitian part (K(u) + conj K(-u)) / 2 acts on a real map, and it is taken explicitly, because FFT
libraries disagree on what an inverse transform does with the rest.

Each is called with maps x (N, C_in, H, W), the response h (H, V) of a high-pass filter at
``transform_size(H, W)`` and the matrix ``local`` (C_out, C_in) of the module's local branch. It
returns the sum of both branches, (N, C_out, H, W). Both mix the channels in the dtype of ``local``.

Legend: N batch, C_in and C_out channels, H and W map size, G grid size (even, points over the full
circle of frequencies), V = W // 2 + 1 columns of the half plane, F = H * V frequencies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fam_det.core.checks import check_option
from fam_det.core.kernels.products import complex_matmul, pointwise
from fam_det.core.kernels.spectrum import (
    filter_channels,
    irfft2,
    mix_frequencies,
    multiplicity,
    rfft2,
)

FILTERS = ("dense", "pooled", "banded", "separable")


class GlobalFilter(nn.Module):
    """Base of the filters."""

    def transform_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size (H, W) that is Fourier transformed for maps of a size."""
        return height, width

    def start_at(self, mix: Tensor) -> None:
        """Initialises the filter as a 1x1 mix of channels: ``mix`` (C_out, C_in) times its input.

        Raises:
            ValueError: a filter that cannot represent it, as it sees less than the whole map.
        """
        raise ValueError(
            f"init: got 'identity', expected 'paper' for a {type(self).__name__} without a local "
            "branch: it never returns a whole map"
        )


class DenseFilter(GlobalFilter):
    """One C_out x C_in matrix a frequency: the formula of the paper, for maps of one size."""

    def __init__(self, in_channels: int, out_channels: int, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width
        # (H, V, C_in, C_out, 2)
        self.weight = nn.Parameter(init_half_spectrum(height, width, in_channels, out_channels))

    def spectrum(self, height: int, width: int) -> Tensor:
        """Returns the filter that is applied, complex (H, V, C_in, C_out)."""
        if (height, width) != (self.height, self.width):
            raise ValueError(
                f"size: got a map of {height}x{width}, expected {self.height}x{self.width}: the "
                "dense filter has one size; the banded and separable filters take any"
            )
        return applied_spectrum(self.weight, self.width)

    def start_at(self, mix: Tensor) -> None:
        """Sets every frequency to the mix."""
        fill_with_mix(self.weight, self.width, mix)

    def forward(self, x: Tensor, response: Tensor, local: Tensor) -> Tensor:
        """Computes IFFT(h * (K . FFT(x))) + local @ x; see the module's docstring."""
        # The storage's scale goes with the response: (H, V) values, not a copy of the filter.
        scale = mirror_scale(self.width).T.to(x)  # (1, V)
        return mix_frequencies(x, self.weight.to(x.dtype), response * scale, local)


class PooledFilter(GlobalFilter):
    """The dense filter on maps that are average-pooled to G x G; any size.

    The filtered map is enlarged bilinearly, so this sees and changes low frequencies only.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: int) -> None:
        super().__init__()
        check_grid(grid)
        self.grid = grid
        self.dense = DenseFilter(in_channels, out_channels, grid, grid)

    def transform_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns (G, G)."""
        return self.grid, self.grid

    def spectrum(self, height: int, width: int) -> Tensor:
        """Returns the filter applied to the pooled map, complex (G, G / 2 + 1, C_in, C_out)."""
        return self.dense.spectrum(self.grid, self.grid)

    def forward(self, x: Tensor, response: Tensor, local: Tensor) -> Tensor:
        """Computes enlarge(IFFT(h * (K . FFT(pool(x))))) + local @ x; see the module."""
        pooled = F.adaptive_avg_pool2d(x, self.grid)
        # The local branch reads the full map below, not the pooled one.
        out = self.dense(pooled, response, torch.zeros_like(local))
        out = F.interpolate(out, x.shape[2:], mode="bilinear", align_corners=False)
        return out + pointwise(x.to(local.dtype), local)


class BandedFilter(GlobalFilter):
    """One C_out x C_in matrix a cell of a G x (G / 2 + 1) grid over normalised frequency; any size.

    A frequency takes the matrix of the nearest grid point, so a map of G x G pixels sees the dense
    filter.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: int) -> None:
        super().__init__()
        check_grid(grid)
        self.grid = grid
        # (G, G/2 + 1, C_in, C_out, 2)
        self.weight = nn.Parameter(init_half_spectrum(grid, grid, in_channels, out_channels))

    def spectrum(self, height: int, width: int) -> Tensor:
        """Returns the filter that is applied to maps of H x W, complex (H, V, C_in, C_out)."""
        rows, columns = self._nearest_cells(height, width)
        return applied_spectrum(self.weight, self.grid)[rows][:, columns]

    def start_at(self, mix: Tensor) -> None:
        """Sets every cell to the mix."""
        fill_with_mix(self.weight, self.grid, mix)

    def _nearest_cells(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns the grid row of H rows and the grid column of V columns (int64, on the CPU)."""
        u, v = grid_positions(height, width, self.grid, torch.device("cpu"))
        return u.round().long() % self.grid, v.round().long()

    def forward(self, x: Tensor, response: Tensor, local: Tensor) -> Tensor:
        """Computes IFFT(h * (K . FFT(x))) + local @ x; see the module's docstring."""
        n, c_in, height, width = x.shape
        rows, columns = self._nearest_cells(height, width)
        cell = (rows[:, None] * (self.grid // 2 + 1) + columns).flatten()  # (F,)
        # Sorted on the CPU: split() needs the counts there, and reading them would wait for a GPU.
        order = cell.argsort(stable=True)
        back = order.argsort().to(x.device)
        counts = torch.bincount(cell, minlength=self.grid * (self.grid // 2 + 1)).tolist()
        bins = (rfft2(x) * response).flatten(2).permute(2, 0, 1)  # (F, N, C_in)
        weight = self.weight.to(x.dtype)
        k = applied_spectrum(weight, self.grid).flatten(0, 1)  # (cells, C_in, C_out)
        # One matrix product a cell; a dense filter would repeat its matrix for every frequency.
        parts = bins.index_select(0, order.to(x.device)).split(counts)
        out = torch.cat(
            [
                complex_matmul(p.reshape(-1, c_in), m, local.dtype)
                for p, m in zip(parts, k, strict=True)
            ]
        )
        out = out.view(-1, n, k.shape[-1]).index_select(0, back)  # (F, N, C_out)
        out = irfft2(out.permute(1, 2, 0).unflatten(2, response.shape), width)
        return out + pointwise(x.to(local.dtype), local)


class SeparableFilter(GlobalFilter):
    """One complex gain a channel on a G x (G / 2 + 1) grid, then a 1x1 mix of channels; any size.

    The gain is interpolated bilinearly over normalised frequency, periodic in the rows. It starts
    at 1.
    """

    def __init__(self, in_channels: int, out_channels: int, grid: int) -> None:
        super().__init__()
        check_grid(grid)
        self.grid = grid
        gain = torch.zeros(grid, grid // 2 + 1, in_channels, 2)
        gain[..., 0] = 1.0 / mirror_scale(grid)
        self.gain = nn.Parameter(gain)  # (G, G/2 + 1, C_in, 2)
        self.mix = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    @torch.no_grad()
    def start_at(self, mix: Tensor) -> None:
        """Sets the mix; the initial gains are 1."""
        self.mix.weight.copy_(mix[..., None, None])

    def gains(self, height: int, width: int) -> Tensor:
        """Returns each channel's gain on the half plane of an H x W map, complex (C_in, H, V)."""
        gain = applied_spectrum(self.gain, self.grid).permute(2, 0, 1)  # (C_in, G, G/2 + 1)
        by_row, by_column = (w.to(gain.dtype) for w in self._interpolation(height, width))
        return by_row @ gain @ by_column.T

    def _interpolation(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Returns weights of the grid's rows (H, G) and of its columns (V, G/2 + 1)."""
        u, v = grid_positions(height, width, self.grid, self.gain.device)
        dtype = self.gain.dtype if self.gain.dtype == torch.float64 else torch.float32
        by_row = linear_weights(u, self.grid, dtype, periodic=True)
        return by_row, linear_weights(v, self.grid // 2 + 1, dtype)

    def spectrum(self, height: int, width: int) -> Tensor:
        """Returns the filter that is applied to maps of H x W, complex (H, V, C_in, C_out)."""
        mix = self.mix.weight[:, :, 0, 0].T  # (C_in, C_out)
        return self.gains(height, width).permute(1, 2, 0)[..., None] * mix

    def forward(self, x: Tensor, response: Tensor, local: Tensor) -> Tensor:
        """Computes mix(IFFT(h * gain * FFT(x))) + local @ x; see the module's docstring."""
        # The interpolation is one product by rows and one by columns, and the mix comes after the
        # transform: the whole filter (H, V, C_in, C_out) is never formed.
        gain = applied_spectrum(self.gain.to(x.dtype), self.grid).permute(2, 0, 1)
        by_row, by_column = (w.to(x.dtype) for w in self._interpolation(x.shape[2], x.shape[3]))
        mix = self.mix.weight.to(local.dtype).flatten(1)  # (C_out, C_in)
        return filter_channels(x, gain, by_row, by_column, response, mix, local)


def check_grid(grid: int) -> None:
    """Raises unless the grid is even, so that it has a column for the Nyquist frequency."""
    check_option("grid", grid, grid >= 2 and grid % 2 == 0, "an even number >= 2")


def mirror_scale(width: int) -> Tensor:
    """Returns the factor from each of the V stored columns to the applied filter, (V, 1)."""
    return multiplicity(width).rsqrt()[:, None]


def init_half_spectrum(height: int, width: int, in_channels: int, out_channels: int) -> Tensor:
    """Returns storage of a full spectrum, its real and imaginary part from U[0, 1 / (C_in C_out)).

    The Hermitian part of that spectrum averages each frequency with the conjugate of its mirror
    image. (H, V, C_in, C_out, 2).
    """
    shape = (width // 2 + 1, in_channels, out_channels)
    # All draws are independent, so a second one stands for the mirror image's.
    at_frequency = torch.rand(height, *shape, 2)
    at_mirror = torch.rand(height, *shape, 2) * torch.tensor([1.0, -1.0])
    stored = (at_frequency + at_mirror) / 2.0
    stored = stored / mirror_scale(width)[..., None, None].float()
    own_mirror = (mirror_scale(width) == 1.0)[..., None, None]
    return torch.where(own_mirror, at_frequency, stored) * (1.0 / (in_channels * out_channels))


@torch.no_grad()
def fill_with_mix(stored: Tensor, width: int, mix: Tensor) -> None:
    """Stores ``mix`` (C_out, C_in) at every frequency; ``stored`` is (H, V, C_in, C_out, 2)."""
    stored.zero_()
    scale = mirror_scale(width).to(stored)[..., None]  # (V, 1, 1)
    stored[..., 0] = mix.T.to(stored) / scale


def applied_spectrum(stored: Tensor, width: int) -> Tensor:
    """Returns the Hermitian filter of a stored half plane.

    Args:
        stored: real (H, V, ..., 2), of a spectrum that is ``width`` columns wide.
        width: columns of the full spectrum; only the columns 0 and ``width / 2`` are their own
            mirror.

    Returns:
        complex (H, V, ...), complex64 unless the storage is float64.
    """
    if stored.dtype != torch.float64:
        stored = stored.float()  # neither bfloat16 nor float16 has an FFT everywhere
    s = torch.view_as_complex(stored.contiguous())
    mirrored = torch.roll(s.flip(0), 1, 0).conj()  # conj K(-u): row 0 stays, row i goes to H - i
    scale = mirror_scale(width).to(s.device, stored.dtype)
    scale = scale.view(-1, *[1] * (s.dim() - 2))  # (V, 1, ...)
    return torch.where(scale == 1.0, 0.5 * (s + mirrored), scale * s)


def grid_positions(
    height: int, width: int, grid: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns an H x W map's frequencies on the grid: (H,) in [-G/2, G/2), (V,) in [0, G/2]."""
    u = torch.fft.fftfreq(height, dtype=torch.float64, device=device) * grid
    v = torch.fft.rfftfreq(width, dtype=torch.float64, device=device) * grid
    return u, v


def linear_weights(
    position: Tensor, points: int, dtype: torch.dtype, *, periodic: bool = False
) -> Tensor:
    """Returns linear interpolation weights (P, ``points``) of grid points at ``position`` (P,)."""
    # A hat of width 2 around each grid point; it wraps around where the axis does.
    distance = (position[:, None] - torch.arange(points, device=position.device)).abs()
    if periodic:
        distance = distance % points
        distance = torch.minimum(distance, points - distance)
    return (1.0 - distance).clamp(min=0.0).to(dtype)
