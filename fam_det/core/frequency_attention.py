"""The frequency attention module (FAM) of FAM-KD, WACV 2024, arXiv 2403.05894.

Legend: N batch, C_in and C_out channels, H and W map size, V = W // 2 + 1 columns of the half
spectrum.
"""

import torch
from torch import Tensor, nn

from fam_det.core.filters import FILTERS, BandedFilter, DenseFilter, SeparableFilter
from fam_det.core.high_pass import check_high_pass, high_pass_response

Size = int | tuple[int, int]


class FrequencyAttention(nn.Module):
    """Turns student features into the teacher's shape, seeing all of the map at once.

    With K a learnable global filter and h a high-pass filter::

        global = IFFT(h * (K . FFT(x)))
        local  = Conv1x1(x)
        out    = gamma_global * global + gamma_local * local

    The transform runs in float32 (float64 for float64 maps), also under autocast.

    Args:
        in_channels: C_in, of the student.
        out_channels: C_out, of the teacher.
        size: H and W of the maps, an int for square ones. The dense filter needs it; with the
            others it is only checked. None takes maps of any size.
        filter: storage of K, one of ``"dense"``, ``"banded"``, ``"separable"``; see
            ``core.filters``.
        grid: grid points of the banded and separable filters over the full circle of frequencies,
            even.
        high_pass: one of ``HIGH_PASS_FILTERS``; see ``core.high_pass``.
        cutoff: of the high-pass filter, as a fraction of the Nyquist frequency, in [0, 1].
        order: of the Butterworth filter.

    Attributes:
        gamma_global, gamma_local: weights of the branches, parameters of shape (1,), 0.5 at the
            start (gamma1 and gamma2 of the paper).

    Raises:
        ValueError: an argument outside its range; the message names it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: Size | None = None,
        filter: str = "dense",
        grid: int = 8,
        high_pass: str = "ideal",
        cutoff: float = 0.1,
        order: int = 2,
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels)
        check_high_pass(high_pass, cutoff, order)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.size = as_height_width(size)
        self.high_pass, self.cutoff, self.order = high_pass, cutoff, order
        self.filter = build_filter(filter, in_channels, out_channels, self.size, grid)
        self.local = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.gamma_global = nn.Parameter(torch.full((1,), 0.5))
        self.gamma_local = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Transform maps.

        Args:
            x: (N, C_in, H, W), any real floating type.

        Returns:
            (N, C_out, H, W) of the type of ``x``.

        Raises:
            ValueError: wrong dimensions, channels or size.
        """
        self._check(x)
        compute_dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        with torch.autocast(x.device.type, enabled=False):
            features = x.to(compute_dtype)
            weight, bias, gamma_global, gamma_local = (
                parameter.to(compute_dtype)
                for parameter in (*self.local.parameters(), self.gamma_global, self.gamma_local)
            )
            # both branches are linear: each gamma scales the smallest thing that it can
            response, local = gamma_global * self._response(features), gamma_local * weight
            out = self.filter(features, response, local.flatten(1))
            out += (gamma_local * bias)[:, None, None]
        return out.to(x.dtype)

    def _response(self, x: Tensor) -> Tensor:
        return high_pass_response(
            self.high_pass,
            *x.shape[2:],
            cutoff=self.cutoff,
            order=self.order,
            dtype=x.dtype,
            device=x.device,
        )

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"in_channels: got a map of shape {tuple(x.shape)}, "
                f"expected (N, {self.in_channels}, H, W)"
            )
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            raise ValueError(f"size: got a map of {tuple(x.shape[2:])}, expected {self.size}")
        if not x.is_floating_point():
            raise ValueError(f"x: got dtype {x.dtype}, expected a real floating type")

    def extra_repr(self) -> str:
        """The high-pass filter and the size, for ``print``."""
        size = f", size={self.size}" if self.size else ""
        return f"high_pass={self.high_pass!r}, cutoff={self.cutoff}{size}"


def build_filter(
    kind: str, in_channels: int, out_channels: int, size: tuple[int, int] | None, grid: int
) -> nn.Module:
    """The global filter of a kind; raises a ValueError that names a wrong argument."""
    if kind == "dense":
        if size is None:
            raise ValueError(
                "size: got None, expected an int or (H, W): the dense filter has one size; "
                "the banded and separable filters take any"
            )
        return DenseFilter(in_channels, out_channels, *size)
    if kind == "banded":
        return BandedFilter(in_channels, out_channels, grid)
    if kind == "separable":
        return SeparableFilter(in_channels, out_channels, grid)
    raise ValueError(f"filter: got {kind!r}, expected one of {FILTERS}")


def as_height_width(size: Size | None) -> tuple[int, int] | None:
    """(H, W) of a size given as an int or a pair; raises a ValueError unless both are >= 1."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size: got {size}, expected an int >= 1 or a pair (H, W) of them")
    return int(height), int(width)


def check_channels(**channels: int) -> None:
    """Raise a ValueError that names the first number of channels below 1."""
    for name, value in channels.items():
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected an integer >= 1")
