"""A basis of the teacher's feature maps for a student whose maps are thinner.

Every head reads the maps of an FPN through a linear layer first, and ROIAlign is linear. So if the
teacher's maps are about x = E z, with one E (C, k) for all cells, a head whose first layer has the
weights W E computes from the k channels of z what the teacher's head with W computes from the C of
x. No mean is subtracted, so that zero padding is zero in both.

Of all E of k columns this one minimises the mean of |W (x - E z)|^2 over the cells: W has the
weights of the first layers as rows, each layer scaled to the same energy. With M the second moments
of the maps, that is a singular value decomposition of W M^(1/2); without layers E holds the
principal components.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fam_det.modeling.levels import valid_sizes
from fam_det.modeling.teacher import FrozenTeacher

from detectron2.utils import comm

RIDGE = 1e-9  # fraction of the mean variance that is added: M may be singular


@torch.no_grad()
def second_moments(
    teacher: FrozenTeacher,
    levels: Collection[str],
    batches: Iterable[Sequence[dict[str, Any]]],
    num_images: int,
) -> Tensor:
    """Returns the mean of x x^T over the cells of the teacher's maps.

    Args:
        teacher: with its weights loaded.
        levels: names of its maps, all of C channels.
        batches: of this process, as Detectron2's models take them; only as many are read as needed.
        num_images: of all processes together.

    Returns:
        float64 (C, C), the same in every process. Padding is left out.

    Raises:
        ValueError: no images.
    """
    shapes = teacher.output_shape()
    total, cells = None, 0
    for batch in _first_images(batches, -(-num_images // comm.get_world_size())):
        height, width = (max(x["image"].shape[side] for x in batch) for side in (-2, -1))
        maps = teacher(batch, (height, width), levels)
        sizes = [tuple(x.shape[-2:]) for x in teacher.images(batch)]
        for level in levels:
            for x, (height, width) in zip(
                maps[level], valid_sizes(sizes, shapes[level].stride), strict=True
            ):
                image = x[:, :height, :width].flatten(1)
                image = image.to(torch.promote_types(image.dtype, torch.float32))
                product = (image @ image.T).double()
                total = product if total is None else total + product
                cells += image.shape[1]
    if total is None:
        raise ValueError(
            "load_teacher: got no images, expected batches of training images: the student's maps "
            "are thinner than the teacher's, whose basis is computed on images"
        )
    count = total.new_tensor(cells)
    if comm.get_world_size() > 1:
        dist.all_reduce(total)
        dist.all_reduce(count)
    return total / count


def _first_images(
    batches: Iterable[Sequence[dict[str, Any]]], count: int
) -> Iterable[Sequence[dict[str, Any]]]:
    for batch in batches:
        yield batch[:count]
        count -= len(batch)
        if count <= 0:
            break
    # Detectron2's own loader empties the bucket of a batch only when it is asked for the next one.
    # Iterated over again, it would wait forever for the bucket to fill.
    for bucket in getattr(batches, "_buckets", ()):
        bucket.clear()


def find_basis(moments: Tensor, layers: Sequence[Tensor], width: int) -> Tensor:
    """Returns the basis E (C, k) that keeps most of what the layers read.

    The coordinates z are uncorrelated with second moments of 1, in order of importance.

    Args:
        moments: M, (C, C).
        layers: weights (rows, C) of the layers that read the maps; empty for principal components.
        width: k, at most C.
    """
    channels = len(moments)
    moments = moments + RIDGE * moments.trace() / channels * torch.eye(channels).to(moments)
    variances, directions = torch.linalg.eigh(moments)
    root = directions * variances.sqrt() @ directions.T
    grams = [(layer.to(moments).T @ layer.to(moments)) for layer in layers]
    weight = sum((gram / (gram @ moments).trace() for gram in grams), torch.zeros_like(moments))
    if not grams:
        weight = torch.eye(channels).to(moments)
    _, vectors = torch.linalg.eigh(root @ weight @ root)
    basis = root @ vectors.flip(1)[:, :width]
    # eigh returns either sign: make the largest entry of each column positive on every machine.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    return basis * largest.sign()
