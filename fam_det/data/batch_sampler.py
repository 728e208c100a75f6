"""Which images make up which batch: Detectron2's samplers and groups, without loading an image."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm

SeededSampler: TypeAlias = Callable[[int], Iterable[int]]  # positions without end, by seed
Key: TypeAlias = tuple[int, int]  # place in the stream of all processes, position in the data set


def uniform_sampler(count: int) -> SeededSampler:
    """Returns Detectron2's default: every image once an epoch, shuffled."""
    return lambda seed: TrainingSampler(count, seed=seed)


def build_sampler(
    cfg: CfgNode, records: Sequence[dict[str, Any]], sizes: Sequence[int] = ()
) -> SeededSampler:
    """Returns ``DATALOADER.SAMPLER_TRAIN`` as a function of the seed.

    Args:
        cfg: which also has ``DATASETS.TRAIN_SHARES``.
        records: of all data sets, one after the other.
        sizes: of these.
    """
    name, count = cfg.DATALOADER.SAMPLER_TRAIN, len(records)
    if cfg.DATASETS.TRAIN_SHARES:
        if name != "TrainingSampler":
            raise ValueError(
                f"DATALOADER.SAMPLER_TRAIN: got {name!r}, expected 'TrainingSampler' with "
                "DATASETS.TRAIN_SHARES"
            )
        factors = repeat_factors(cfg.DATASETS.TRAIN_SHARES, sizes)
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    if name == "TrainingSampler":
        return uniform_sampler(count)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return lambda seed: RandomSubsetTrainingSampler(
            count, ratio, seed_shuffle=seed, seed_subset=seed
        )
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN: got {name!r}, expected 'TrainingSampler', "
        "'RepeatFactorTrainingSampler' or 'RandomSubsetTrainingSampler'"
    )


def repeat_factors(shares: Sequence[float], sizes: Sequence[int]) -> Tensor:
    """Returns how often each image comes in an epoch, float32, so that data sets have shares of it.

    Raises:
        ValueError: other than a positive share for each data set.
    """
    if len(shares) != len(sizes) or not all(share > 0 for share in shares):
        raise ValueError(
            f"DATASETS.TRAIN_SHARES: got {list(shares)}, expected a positive share for each of the "
            f"{len(sizes)} data sets"
        )
    per_image = torch.tensor(shares) / sum(shares) * sum(sizes) / torch.tensor(sizes)
    return per_image.repeat_interleave(torch.tensor(sizes))


def aspect_groups(records: Sequence[dict[str, Any]]) -> list[int]:
    """Returns Detectron2's group of each image: 0 if it is wider than high, else 1.

    A record may lack its size, which is known once it is mapped: it is in group 1.
    """
    return [0 if x.get("width", 0) > x.get("height", 0) else 1 for x in records]


def form_batches(
    positions: Iterable[int], batch_size: int, groups: Sequence[int] | None = None
) -> Iterator[list[Key]]:
    """Yields the batches of this process.

    They are those of Detectron2's ``build_detection_train_loader``, where it groups by aspect ratio
    with any number of workers and otherwise with one. The group of an image is known without it, so
    a resumed run gets to its place in a second or two.
    """
    rank, processes = comm.get_rank(), comm.get_world_size()
    waiting: dict[int, list[Key]] = defaultdict(list)
    for number, position in enumerate(positions):
        group = groups[position] if groups else 0
        waiting[group].append((number * processes + rank, position))
        if len(waiting[group]) == batch_size:
            yield waiting.pop(group)
