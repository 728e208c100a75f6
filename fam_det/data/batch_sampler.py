"""Which images make up which batch: Detectron2's samplers and groups, without loading an image."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm

SamplerOfSeed: TypeAlias = Callable[[int], Iterator[int]]
Key: TypeAlias = tuple[int, int]  # place in the stream of all processes, position in the data set


def sampler_of(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> SamplerOfSeed:
    """``DATALOADER.SAMPLER_TRAIN`` as a function of the seed.

    Raises:
        ValueError: a sampler that Detectron2 does not have.
    """
    name, count = cfg.DATALOADER.SAMPLER_TRAIN, len(records)
    if name == "TrainingSampler":
        return endless(TrainingSampler, count)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return lambda seed: iter(
            RandomSubsetTrainingSampler(count, ratio, seed_shuffle=seed, seed_subset=seed)
        )
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return endless(RepeatFactorTrainingSampler, factors)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN: got {name!r}, expected 'TrainingSampler', "
        "'RepeatFactorTrainingSampler' or 'RandomSubsetTrainingSampler'"
    )


def endless(sampler: Any, of: Any) -> SamplerOfSeed:
    """A sampler of Detectron2, of what it samples from, as a function of the seed."""
    return lambda seed: iter(sampler(of, seed=seed))


def wide_or_high(records: Sequence[dict[str, Any]]) -> list[int]:
    """The group of each image that Detectron2 forms batches from: 0 if wider than high, else 1."""
    return [0 if record["width"] > record["height"] else 1 for record in records]


class BatchOrder:
    """The batches of this process, of positions in the data set, as a function of the seed.

    They are those of Detectron2's ``build_detection_train_loader``, where it groups by aspect ratio
    with any number of workers and otherwise with one. The group of an image is known without it, so
    a resumed run gets at its place in a second or two.

    Args:
        sampler: an endless stream of positions for this process, by seed.
        batch_size: images a batch of this process.
        groups: of each image; a batch has images of one group. None for one group of all.
    """

    def __init__(
        self, sampler: SamplerOfSeed, batch_size: int, groups: Sequence[int] | None = None
    ) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups

    def batches(self, seed: int) -> Iterator[list[Key]]:
        """Batches without end."""
        rank, processes = comm.get_rank(), comm.get_world_size()
        waiting: dict[int, list[Key]] = defaultdict(list)
        for number, index in enumerate(self.sampler(seed)):
            batch = waiting[self.groups[index] if self.groups else 0]
            batch.append((number * processes + rank, index))
            if len(batch) == self.batch_size:
                yield batch[:]
                batch.clear()
