"""The loader of a detector's training: batch k is a function of the seed and k."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from fam_det.data.batch_sampler import BatchOrder, SamplerOfSeed, endless, sampler_of, wide_or_high
from fam_det.data.dataset import Item, SeededItems
from fam_det.data.mapper import CheckedMapper, NamingMapper
from fam_det.data.unreadable import UnreadableImages
from fam_det.data.workers import in_worker, outliving_workers, starting_workers

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class ResumableLoader:
    """Batches without end, of images in Detectron2's order and format.

    Batch k of a process is a function of the seed and k alone, whatever the number of workers, so
    that a resumed run, and one that lost a worker, sees what an unbroken one would.

    Args:
        records: of the images, in Detectron2's format.
        mapper: from a record to what the model takes.
        sampler: an endless stream of positions for this process, by seed.
        batch_size: images a batch of this process.
        group: keep images that are wider than high apart from the others.
        seed: 0 or more, the same in every process.
        num_workers: processes that load; 0 loads in this one.
        timeout: seconds after which a worker counts as stuck; 0 for never.
        max_unreadable: different files that may be skipped before it is an error.

    Attributes:
        start_iter: the iteration that comes first; read when the first batch is asked for.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[[Any], Any],
        sampler: SamplerOfSeed,
        batch_size: int,
        *,
        group: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        timeout: float = 0.0,
        max_unreadable: int = 0,
    ) -> None:
        self.start_iter = 0
        self.order = BatchOrder(sampler, batch_size, wide_or_high(records) if group else None)
        # Serialised: workers share its memory, where they would each copy a list of dictionaries.
        self.items = SeededItems(DatasetFromList(list(records), copy=False), mapper, seed)
        self.num_workers = num_workers
        self.timeout = timeout if num_workers else 0.0
        self.unreadable = UnreadableImages(max_unreadable)

    @property
    def seed(self) -> int:
        """The seed of all batches; a resumed run goes on with that of its checkpoint."""
        return self.items.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.items.seed = seed

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Batches from ``start_iter`` on; nothing happens before the first is asked for.

        Raises:
            ValueError: more files that cannot be read than are allowed.
        """
        for batch in outliving_workers(self._batches_from, self.start_iter):
            for item in batch:
                self.unreadable.add(item.unreadable)
            yield [item.content for item in batch]

    def _batches_from(self, iteration: int) -> Iterable[list[Item]]:
        return starting_workers(
            DataLoader(
                self.items,
                batch_sampler=islice(self.order.batches(self.seed), iteration, None),
                num_workers=self.num_workers,
                collate_fn=list,
                timeout=self.timeout,
                worker_init_fn=in_worker,
                # of its own: otherwise the workers' seeds are drawn from the default generator
                generator=torch.Generator(),
            )
        )


def build_train_loader(cfg: CfgNode, mapper: Callable[[Any], Any] | None = None) -> Any:
    """Batches of this process's part of ``SOLVER.IMS_PER_BATCH`` images of ``DATASETS.TRAIN``.

    The seed is drawn from NumPy's generator, which ``SEED`` seeds. A data set that is no list of
    records gets Detectron2's own loader, which starts anew in a resumed run.

    Raises:
        ValueError: an impossible value; the message names the key.
    """
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        if cfg.MODEL.KEYPOINT_ON
        else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    if not isinstance(records, list):
        logger.warning("%s: no list of records; a resumed run starts it anew", cfg.DATASETS.TRAIN)
        return build_detection_train_loader(cfg, mapper=mapper)
    return ResumableLoader(
        records,
        CheckedMapper(mapper or DatasetMapper(cfg, is_train=True)),
        sampler_of(cfg, records),
        images_here("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH),
        group=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        seed=comm.shared_random_seed(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        timeout=cfg.DATALOADER.TIMEOUT,
        max_unreadable=0 if cfg.DATASETS.STRICT else cfg.DATALOADER.MAX_UNREADABLE,
    )


def build_resumable_loader(
    dataset: Any,
    *,
    mapper: Callable[[Any], Any],
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    timeout: float = 600.0,
    max_unreadable: int = 10,
    **others: Any,
) -> Any:
    """For LazyConfigs, with the arguments of Detectron2's ``build_detection_train_loader``.

    With a sampler or collate function of its own, or a data set that is no list of records, it is
    Detectron2's own loader, which starts anew in a resumed run.
    """
    others = {key: value for key, value in others.items() if value is not None}
    if others or not isinstance(dataset, list):
        reason = next(iter(others), "dataset")
        logger.warning("dataloader.train.%s: a resumed run starts this loader anew", reason)
        return build_detection_train_loader(
            dataset,
            mapper=mapper,
            total_batch_size=total_batch_size,
            aspect_ratio_grouping=aspect_ratio_grouping,
            num_workers=num_workers,
            **others,
        )
    return ResumableLoader(
        dataset,
        CheckedMapper(mapper),
        endless(TrainingSampler, len(dataset)),
        images_here("dataloader.train.total_batch_size", total_batch_size),
        group=aspect_ratio_grouping,
        seed=comm.shared_random_seed(),
        num_workers=num_workers,
        timeout=timeout,
        max_unreadable=max_unreadable,
    )


def build_test_loader(dataset: Any, *, mapper: Callable[[Any], Any], **others: Any) -> Any:
    """Detectron2's loader of a data set for an evaluation; what is wrong with an image names it."""
    return build_detection_test_loader(dataset, mapper=NamingMapper(mapper), **others)


def images_here(key: str, images: int) -> int:
    """This process's part of a batch.

    Raises:
        ValueError: a batch that cannot be cut into equal parts; the message names the key.
    """
    processes = comm.get_world_size()
    if images < 1 or images % processes != 0:
        raise ValueError(
            f"{key}: got {images}, expected a positive multiple of the {processes} processes"
        )
    return images // processes
