"""Losses between two feature maps, the choices of ``MODEL.DISTILLER.LOSS``.

Legend: N batch, C channels, H and W map size, V = W // 2 + 1 columns of the half plane, B bands, L
cells of all images; valid sizes (h, w), in cells of the map, of each image without its padding.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fam_det.core.kernels.band_energies import band_energies
from fam_det.core.kernels.mean_squares import mean_squares
from fam_det.core.kernels.spectrum import multiplicity

ValidSizes = Sequence[tuple[int, int]]
BAND_EDGES = (0.125, 0.25, 0.5)  # octaves below the Nyquist frequency
EPSILON = 1e-8  # of a variance: a channel that is constant over the batch has none


def mse_loss(student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None) -> Tensor:
    """Computes the mean squared error, the loss of FAM-KD.

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); takes no gradient.
        valid_sizes: (h, w) of each image. The loss is then the mean over the images of the loss on
            their top left h x w cells: padding never counts. None takes whole maps.

    Returns:
        Scalar, float32 (float64 for float64 maps).

    Raises:
        ValueError: shapes that differ, or sizes that are not one an image and within the map.
    """
    return mean_over_images(lambda x, y: mean_squares(x - y), student, teacher, valid_sizes)


def hierarchical_context_loss(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None
) -> Tensor:
    """Computes the hierarchical context loss (HCL) of ReviewKD, Chen et al., CVPR 2021.

    The mean squared error of the maps, and of the maps average-pooled to 4x4, 2x2 and 1x1, weighted
    1, 1/2, 1/4 and 1/8 and divided by the sum of the weights used. A pooled size takes part where
    it is smaller than the map. Arguments, result and errors are those of :func:`mse_loss`.
    """

    def loss(x: Tensor, y: Tensor) -> Tensor:
        # Pooling is linear: that of the difference is the difference of the pooled maps.
        return mean_squares(x - y, [side for side in (4, 2, 1) if side < min(x.shape[2:])])

    return mean_over_images(loss, student, teacher, valid_sizes)


def pearson_loss(student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None = None) -> Tensor:
    """Computes one minus Pearson's correlation, of PKD (Cao et al., NeurIPS 2022, equation 5).

    Every channel is normalised to mean 0 and deviation 1 over the cells of the whole batch; the
    loss, in [0, 2], is half the mean squared difference. Otherwise as :func:`mse_loss`.
    """
    sides = zip(*image_stacks(student, teacher, valid_sizes), strict=True)
    # (C, L), each image copied once
    x, y = (torch.cat([m.flatten(1) for stack in side for m in stack], dim=1) for side in sides)
    return 0.5 * F.mse_loss(_standardised(x), _standardised(y))


def spectral_correlation_loss(
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None = None,
    *,
    edges: Sequence[float] = BAND_EDGES,
) -> Tensor:
    """Computes one minus the correlation of the maps in each channel and band of frequencies.

    The mean squared error and Pearson's correlation (PKD) depend mainly on the lowest frequencies,
    which hold most of a feature map's energy. Here each channel is split into bands of frequencies,
    and each band has the same weight, whatever its energy. With a single band it is PKD's loss, by
    Parseval.

    A band holds the frequencies whose larger coordinate lies between two edges: square rings, as of
    the ideal high-pass filter. A band without a frequency of the maps is left out. Maps are centred
    by each channel's mean over the batch, so an image's own mean is in the lowest band.

    ``edges`` lie between the bands, rising, as fractions of the Nyquist frequency. The loss is in
    [0, 2]; otherwise as :func:`mse_loss`.
    """
    maps = list(image_stacks(student, teacher, valid_sizes))
    mean_x, mean_y = (_channel_means(side) for side in zip(*maps, strict=True))
    counts = [_bands(x.shape[2], x.shape[3], edges).to(x) for x, _ in maps]  # (H, V, B) each
    sums = [band_energies(x, y, mean_x, mean_y, n) for (x, y), n in zip(maps, counts, strict=True)]
    # Energies are summed over the batch: one correlation for each channel and band, as in PKD.
    xx, yy, xy = torch.stack(sums).sum(0)  # (C, B) each
    bins = torch.stack([len(x) * n.sum((0, 1)) for (x, _), n in zip(maps, counts, strict=True)])
    floor = EPSILON * bins.sum(0)  # (B,), 0 for a band that no frequency falls into
    correlation = xy * ((xx + floor) * (yy + floor)).clamp(min=1e-30).rsqrt()
    return 1.0 - correlation[:, floor > 0].mean()


# By the names of ``MODEL.DISTILLER.LOSS``.
LOSSES: dict[str, Callable[[Tensor, Tensor, ValidSizes | None], Tensor]] = {
    "mse": mse_loss,
    "hierarchical": hierarchical_context_loss,
    "pearson": pearson_loss,
    "spectral_correlation": spectral_correlation_loss,
}


def mean_over_images(
    loss: Callable[[Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    valid_sizes: ValidSizes | None,
) -> Tensor:
    """Returns the mean of a loss over the images, without their padding.

    ``loss`` is called with both maps of n images of one size, (n, C, h, w), and returns the mean
    over these images; the other arguments are those of :func:`mse_loss`.
    """
    stacks = image_stacks(student, teacher, valid_sizes)
    return torch.stack([len(x) / len(student) * loss(x, y) for x, y in stacks]).sum()


def image_stacks(
    student: Tensor, teacher: Tensor, valid_sizes: ValidSizes | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields both maps of all images of each size, (n, C, h, w), without their padding.

    They are in float32 or better; arguments and errors are those of :func:`mse_loss`.
    """
    student, teacher = matching_maps(student, teacher)
    if valid_sizes is None:
        valid_sizes = [(student.shape[2], student.shape[3])] * len(student)
    check_valid_sizes(valid_sizes, student)
    sizes = sorted(set(valid_sizes))
    if len(sizes) == 1:  # views, without a copy
        ((h, w),) = sizes
        yield student[..., :h, :w], teacher[..., :h, :w]
        return
    images = list(zip(student, teacher, valid_sizes, strict=True))
    for h, w in sizes:
        of_size = [(x[:, :h, :w], y[:, :h, :w]) for x, y, size in images if size == (h, w)]
        x, y = (torch.stack(side) for side in zip(*of_size, strict=True))
        yield x, y


def matching_maps(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both maps in float32 or better, the teacher's without a gradient.

    Raises:
        ValueError: shapes that differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"teacher: got a map of shape {tuple(teacher.shape)}, "
            f"expected that of the student, {tuple(student.shape)}"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def check_valid_sizes(valid_sizes: ValidSizes, maps: Tensor) -> None:
    """Raises a ValueError unless there is one size for each image, and it lies in the map."""
    if len(valid_sizes) != len(maps):
        raise ValueError(
            f"valid_sizes: got {len(valid_sizes)} entries, expected {len(maps)}, one an image"
        )
    height, width = maps.shape[2:]
    for h, w in valid_sizes:
        if not (1 <= h <= height and 1 <= w <= width):
            raise ValueError(
                f"valid_sizes: got {(h, w)}, expected (1, 1) to {(height, width)}, the map's size"
            )


def _standardised(x: Tensor) -> Tensor:
    """Returns (C, L) with mean 0 and deviation 1 in each row."""
    centred = x - x.mean(1, keepdim=True)
    return centred * (centred.square().mean(1, keepdim=True) + EPSILON).rsqrt()


@torch.no_grad()
def _channel_means(maps: Sequence[Tensor]) -> Tensor:
    """Returns the mean of each channel over all cells of maps (n, C, h, w): (C,).

    Without a gradient: the deviations from the mean sum to zero, and with them its gradient.
    """
    sums = torch.stack([m.sum((0, 2, 3)) for m in maps])
    return sums.sum(0) / sum(m[:, 0].numel() for m in maps)


def _bands(height: int, width: int, edges: Sequence[float]) -> Tensor:
    """Returns how often each bin of the half plane counts in each band, float64 (H, V, B)."""
    u = 2.0 * torch.fft.fftfreq(height, dtype=torch.float64).abs()[:, None]
    v = 2.0 * torch.fft.rfftfreq(width, dtype=torch.float64)[None, :]
    band = torch.bucketize(torch.maximum(u, v), torch.tensor(edges, dtype=u.dtype), right=True)
    return F.one_hot(band, len(edges) + 1) * multiplicity(width)[:, None]
