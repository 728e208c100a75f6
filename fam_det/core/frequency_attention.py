"""The frequency attention module (FAM) of FAM-KD, WACV 2024, arXiv 2403.05894.

Legend: N batch, C_in and C_out channels, H and W map size, V = W // 2 + 1 columns of the half
spectrum.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fam_det.core.checks import check_channels, check_choice
from fam_det.core.filters import (
    FILTERS,
    BandedFilter,
    DenseFilter,
    GlobalFilter,
    PooledFilter,
    SeparableFilter,
)
from fam_det.core.high_pass import check_high_pass, high_pass_response
from fam_det.core.kernels.products import pointwise

Size = int | tuple[int, int]
BRANCHES = ("global", "local")
INITS = ("paper", "identity")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FAMOptions:
    """Options of the frequency attention module.

    Args:
        branches: one or both of ``BRANCHES``; the paper's module has both.
        init: one of ``INITS``. ``"paper"`` is as published. ``"identity"`` initialises one branch
            as the identity at weight 1: the local one or, without it, the global one, which then
            returns what its high-pass filter passes. The loss then pulls the student's maps to the
            teacher's with no change of basis in between, so that heads which read the teacher's
            maps can read the student's.
        filter: storage of the global filter K, one of ``FILTERS``; see ``core.filters``. None is
            ``"dense"``, the paper's, for maps of one size and ``"separable"`` for maps of any size.
        grid: grid points of every filter but the dense one over the full circle of frequencies,
            even.
        high_pass: one of ``HIGH_PASS_FILTERS``; see ``core.high_pass``.
        cutoff: of the high-pass filter, as a fraction of the Nyquist frequency, in [0, 1].
        order: of the Butterworth filter.

    Raises:
        ValueError: a value outside its range; the message names the option.
    """

    branches: Collection[str] = BRANCHES
    init: str = "paper"
    filter: str | None = None
    grid: int = 8
    high_pass: str = "ideal"
    cutoff: float = 0.1
    order: int = 2

    def __post_init__(self) -> None:
        """Checks every value."""
        check_high_pass(self.high_pass, self.cutoff, self.order)
        if not self.branches or not set(self.branches) <= set(BRANCHES):
            raise ValueError(f"branches: got {self.branches!r}, expected one or both of {BRANCHES}")
        check_choice("init", self.init, INITS)
        check_choice("filter", self.filter, (*FILTERS, None))


class FrequencyAttention(nn.Module):
    """Transforms student features to the teacher's channels, with a global receptive field.

    With K a learnable global filter and h a high-pass filter::

        global = IFFT(h * (K . FFT(x)))
        local  = Conv1x1(x)
        out    = gamma_global * global + gamma_local * local

    The transform runs in float32 (float64 for float64 maps), also under autocast, which decides
    what the channels are mixed in.

    Args:
        in_channels: C_in, of the student.
        out_channels: C_out, of the teacher.
        options: of the module; None for the defaults.
        size: H and W of the maps, an int for square ones. The dense filter needs it; with the
            others it is only checked. None takes maps of any size.

    Attributes:
        gamma_global, gamma_local: weights of the branches, parameters of shape (1,), 0.5 at the
            start (gamma1 and gamma2 of the paper); the constant 0 of a branch that is left out.

    Raises:
        ValueError: an argument outside its range; the message names it.
    """

    gamma_global: Tensor
    gamma_local: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: FAMOptions | None = None,
        *,
        size: Size | None = None,
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels)
        options = options or FAMOptions()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.size = as_height_width(size)
        self.high_pass, self.cutoff, self.order = options.high_pass, options.cutoff, options.order
        self.filter: GlobalFilter | None = None
        self.local: nn.Conv2d | None = None
        if "global" in options.branches:
            self.filter = build_filter(options, in_channels, out_channels, self.size)
        if "local" in options.branches:
            self.local = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        for branch in BRANCHES:
            if branch in options.branches:
                self.register_parameter(f"gamma_{branch}", nn.Parameter(torch.full((1,), 0.5)))
            else:
                self.register_buffer(f"gamma_{branch}", torch.zeros(1), persistent=False)
        if options.init == "identity":
            if in_channels != out_channels:
                raise ValueError(
                    f"init: got 'identity', expected 'paper' for {in_channels} channels in and "
                    f"{out_channels} out, which differ"
                )
            self.start_at(torch.eye(in_channels))

    @torch.no_grad()
    def start_at(self, mix: Tensor) -> None:
        """Initialises one branch as a mix of channels at weight 1: local or, without it, global.

        Args:
            mix: (C_out, C_in); the identity matrix for ``init="identity"``.
        """
        if self.local is not None and self.local.bias is not None:
            self.local.weight.copy_(mix[..., None, None])
            nn.init.zeros_(self.local.bias)
            nn.init.ones_(self.gamma_local)
        elif self.filter is not None:
            self.filter.start_at(mix)
            nn.init.ones_(self.gamma_global)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms maps.

        Args:
            x: (N, C_in, H, W), any real floating type.

        Returns:
            (N, C_out, H, W) of the type of ``x``.

        Raises:
            ValueError: wrong dimensions, channels or size.
        """
        self._check(x)
        # FFTs in half precision lose the small high frequencies, and cuFFT takes powers of 2 only.
        compute_dtype = x.dtype if x.dtype == torch.float64 else torch.float32
        mixing_dtype = autocast_dtype(compute_dtype, x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            return self._both_branches(x.to(compute_dtype), mixing_dtype).to(x.dtype)

    def _both_branches(self, x: Tensor, mixing_dtype: torch.dtype) -> Tensor:
        # Both branches are linear, so each gamma scales the smallest tensor of its branch.
        gamma_global, gamma_local = (g.to(x.dtype) for g in (self.gamma_global, self.gamma_local))
        local = x.new_zeros(self.out_channels, self.in_channels)
        if self.local is not None:
            local = gamma_local * self.local.weight.to(x.dtype).flatten(1)
        local = local.to(mixing_dtype)
        if self.filter is None:
            out = pointwise(x.to(mixing_dtype), local)
        else:
            out = self.filter(x, gamma_global * self._response(x), local)
        if self.local is not None and self.local.bias is not None:
            out += (gamma_local * self.local.bias.to(x.dtype))[:, None, None]
        return out

    def _response(self, x: Tensor) -> Tensor:
        assert self.filter is not None
        # A 1x1 map has only the zero frequency: without it no student could match the teacher.
        single_cell = x.shape[2] == x.shape[3] == 1
        return high_pass_response(
            "none" if single_cell else self.high_pass,
            *self.filter.transform_size(x.shape[2], x.shape[3]),
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
        """Returns the high-pass filter and the size, for ``print``."""
        size = f", size={self.size}" if self.size else ""
        return f"high_pass={self.high_pass!r}, cutoff={self.cutoff}{size}"


def autocast_dtype(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """Returns the dtype of matrix products under autocast, which leaves float64 as it is."""
    if dtype == torch.float64 or not torch.amp.autocast_mode.is_autocast_available(device_type):
        return dtype
    enabled = torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if enabled else dtype


def build_filter(
    options: FAMOptions, in_channels: int, out_channels: int, size: tuple[int, int] | None
) -> GlobalFilter:
    """Returns the global filter of ``options.filter``.

    Raises:
        ValueError: a dense filter without a size.
    """
    kind = options.filter or ("separable" if size is None else "dense")
    if kind == "banded" and size == (1, 1):
        # With one frequency the dense filter is the same function, without unused cells.
        logger.warning("filter: 'banded' is 'dense' on a 1x1 map, which has a single frequency")
        kind = "dense"
    if kind == "dense":
        if size is None:
            raise ValueError(
                "size: got None, expected an int or (H, W): the dense filter has one size; "
                "the banded and separable filters take any"
            )
        return DenseFilter(in_channels, out_channels, *size)
    any_size = {"pooled": PooledFilter, "banded": BandedFilter, "separable": SeparableFilter}
    return any_size[kind](in_channels, out_channels, options.grid)


def as_height_width(size: Size | None) -> tuple[int, int] | None:
    """Returns (H, W) of an int or a pair; raises a ValueError unless both are >= 1."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size: got {size}, expected an int >= 1 or a pair (H, W) of them")
    return int(height), int(width)
