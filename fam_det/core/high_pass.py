"""High-pass filters of the frequency attention module (FAM-KD, WACV 2024, and its supplement).

All responses are real and symmetric, so half of the spectrum describes them. Frequencies are in
units of the Nyquist frequency of their axis, so one cut-off means the same on a map of any size.

Legend: H, W height and width of a feature map; u, v row and column frequency.
"""

import torch
from torch import Tensor

from fam_det.core.checks import check_choice, check_option

HIGH_PASS_FILTERS = ("none", "ideal", "gaussian", "butterworth")


def check_high_pass(kind: str, cutoff: float, order: int) -> None:
    """Raises a ValueError that names an argument outside its range."""
    check_choice("high_pass", kind, HIGH_PASS_FILTERS)
    check_option("cutoff", cutoff, 0.0 <= cutoff <= 1.0, "a fraction of Nyquist in [0, 1]")
    check_option("order", order, order >= 1, "an integer >= 1")


def high_pass_response(
    kind: str,
    height: int,
    width: int,
    *,
    cutoff: float = 0.1,
    order: int = 2,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Returns the response h(u, v) on the half plane of ``torch.fft.rfft2``, zero frequency first.

    With D the distance from the zero frequency and D0 the cut-off:

    - ``ideal``: 0 where both |u| and |v| are below D0, else 1: the box of the released code, made
      symmetric, and without its rounding, which removed nothing from maps under 20 pixels;
    - ``gaussian``: 1 - exp(-D^2 / (2 D0^2));
    - ``butterworth``: 1 / (1 + (D0 / D)^(2 order));
    - ``none``: 1.

    A 1x1 map holds nothing but the zero frequency and is never filtered; nor is any map at cut-off
    0.

    Args:
        kind: one of ``HIGH_PASS_FILTERS``.
        height: rows of the feature map, >= 1.
        width: columns of the feature map, >= 1.
        cutoff: D0 as a fraction of the Nyquist frequency, in [0, 1].
        order: order n of the Butterworth filter, >= 1.
        dtype: real floating type of the result.
        device: device of the result.

    Returns:
        (H, W // 2 + 1) tensor with values in [0, 1].

    Raises:
        ValueError: an unknown kind, or a cut-off or an order outside its range.
    """
    check_high_pass(kind, cutoff, order)
    if kind == "none" or cutoff == 0.0 or (height == 1 and width == 1):
        return torch.ones(height, width // 2 + 1, dtype=dtype, device=device)
    # float64, so that a frequency equal to the cut-off is on the same side for every size
    u = 2.0 * torch.fft.fftfreq(height, dtype=torch.float64).abs()[:, None]  # (H, 1), Nyquist = 1
    v = 2.0 * torch.fft.rfftfreq(width, dtype=torch.float64)[None, :]  # (1, W // 2 + 1)
    if kind == "ideal":
        response = 1.0 - ((u < cutoff) & (v < cutoff)).double()
    elif kind == "gaussian":
        # divided twice: the square of a very small cut-off would be 0
        response = 1.0 - torch.exp(-(u**2 + v**2) / cutoff / cutoff / 2.0)
    else:
        # the ratio is infinite at D = 0, and the response then exactly 0
        ratio = (cutoff / (u**2 + v**2).sqrt()) ** (2 * order)
        response = 1.0 / (1.0 + ratio)
    return response.to(dtype=dtype, device=device)
