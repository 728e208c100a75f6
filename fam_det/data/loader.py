"""Loaders whose batch k is a function of the seed and k, and that replace lost workers."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

from fam_det.config import DISTILLED
from fam_det.core.checks import check_option
from fam_det.data.batch_sampler import (
    Key,
    SeededSampler,
    aspect_groups,
    build_sampler,
    form_batches,
    uniform_sampler,
)
from fam_det.data.coco import check_class_indices, use_coco_datasets
from fam_det.data.dataset import CheckedMapper, NamingMapper, Sample, SeededDataset
from fam_det.data.ignored import IgnoringMapper, without_labels
from fam_det.data.images import UnreadableImages
from fam_det.data.two_sizes import in_two_sizes, input_scale

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import check_metadata_consistency
from detectron2.utils import comm

BatchType = TypeVar("BatchType")

MAX_RESTARTS = 3  # in a row, without a batch in between
NOT_RESUMABLE = "%s: a resumed run starts this loader from its beginning"
logger = logging.getLogger(__name__)


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use, as PyTorch counts them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ignore_signals(_: int) -> None:
    """For ``worker_init_fn``: leaves Ctrl-C and similar signals to the training process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def keep_child_signals() -> Iterator[None]:
    """Keeps PyTorch's DataLoader from handling SIGCHLD when it starts workers in this context.

    Its handler may raise an error anywhere, such as in the middle of the optimiser's step. Without
    it the loader reports a lost worker at the next batch.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if in_main_thread and handler is not None:
            signal.signal(signal.SIGCHLD, handler)


def start_workers(loader: Any) -> Iterator[Any]:
    """Returns an iterator of a DataLoader that reports a lost worker at the next batch."""
    with keep_child_signals():
        return iter(loader)


def restarting_batches(
    batches_from: Callable[[int], Iterable[BatchType]], start: int
) -> Iterator[BatchType]:
    """Yields batches from an iteration on; starts new workers if one was killed or is stuck.

    ``batches_from`` returns the batches from an iteration on, always the same ones. Losing workers
    four times without a batch in between is an error.
    """
    iteration, lost = start, 0
    while True:
        try:
            for batch in batches_from(iteration):
                iteration, lost = iteration + 1, 0
                yield batch
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            lost += 1
            reason = str(error) or type(error).__name__
            # A worker that is killed while it sends a batch resets the connection; the message of
            # an error raised in a worker contains "Caught".
            is_lost_worker = reason.startswith(("DataLoader worker (pid", "DataLoader timed out"))
            is_lost_worker |= not isinstance(error, RuntimeError) and "Caught " not in reason
            if not is_lost_worker or lost > MAX_RESTARTS:
                raise
            logger.warning(
                "Iteration %d: new loader workers, because: %s", iteration, reason.splitlines()[0]
            )


class RestartingLoader:
    """The loader of an evaluation, which replaces workers that were killed or are stuck.

    ``loader`` is a DataLoader that has not started workers and always returns the same batches. A
    worker counts as stuck after ``timeout`` seconds; 0 for never.
    """

    def __init__(self, loader: Any, timeout: float) -> None:
        self.loader = loader
        if loader.num_workers:
            loader.timeout = timeout
            loader.worker_init_fn = ignore_signals

    def __len__(self) -> int:
        """Returns the number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        return restarting_batches(lambda k: islice(start_workers(self.loader), k, None), 0)


def seeded_batches(
    dataset: SeededDataset,
    keys_from: Callable[[int], Iterable[Any]],
    start: int,
    unreadable: UnreadableImages,
    *,
    timeout: float = 0.0,
    num_workers: int = 0,
    collate: Callable[[list[Any]], Any] = list,
    **options: Any,
) -> Iterator[Any]:
    """Yields batches from an iteration on; does nothing before the first.

    ``keys_from`` returns the keys of each batch from an iteration on, always the same ones;
    ``collate`` makes a batch of the samples' contents, in the worker.
    """

    def batches_from(iteration: int) -> Iterator[Sample]:
        return start_workers(
            DataLoader(
                dataset,
                batch_sampler=keys_from(iteration),
                num_workers=num_workers,
                collate_fn=partial(_collate, collate),
                timeout=timeout if num_workers else 0.0,
                worker_init_fn=ignore_signals,
                # By default the workers' seeds would be drawn from the global generator.
                generator=torch.Generator(),
                **options,
            )
        )

    for batch in restarting_batches(batches_from, start):
        unreadable.add(batch.unreadable)
        yield batch.content


def _collate(collate: Callable[[list[Any]], Any], samples: list[Sample]) -> Sample:
    unreadable = {file: why for sample in samples for file, why in sample.unreadable.items()}
    return Sample(collate([sample.content for sample in samples]), unreadable)


@dataclass(eq=False)
class ResumableLoader:
    """An infinite stream of batches, of images in Detectron2's order and format.

    Batch k of a process is a function of the seed and k alone, whatever the number of workers: a
    resumed run, and one that lost a worker, sees the same images as an uninterrupted one.
    ``start_iter`` and ``seed``, which a resumed run sets, are read at the first batch.
    """

    records: Any  # in Detectron2's format
    mapper: Callable[[Any], Any]  # from a record to the model's input
    sampler: SeededSampler  # infinite stream of positions for this process, by seed
    batch_size: int  # images in a batch of this process
    _: KW_ONLY
    group: bool = True  # batches of images that are all wider than high, or none
    seed: int = 0  # 0 or more, the same in every process
    max_unreadable: int = 0  # different files to skip; one more is an error
    num_workers: int = 0  # 0 loads in this process
    timeout: float = 0.0  # seconds after which a worker counts as stuck; 0 for never
    start_iter: int = 0  # the iteration that comes first

    def __post_init__(self) -> None:
        """Groups and serialises the records."""
        self.groups = aspect_groups(self.records) if self.group else None
        # Serialised: workers share its memory, but would each copy a list of dictionaries.
        self.records = DatasetFromList(list(self.records), copy=False)
        self.unreadable = UnreadableImages(self.max_unreadable)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """Yields batches from ``start_iter`` on; does nothing before the first."""
        yield from seeded_batches(
            SeededDataset(self.records, self.mapper, self.seed),
            self._keys_from,
            self.start_iter,
            self.unreadable,
            num_workers=self.num_workers,
            timeout=self.timeout,
        )

    def _keys_from(self, iteration: int) -> Iterator[list[Key]]:
        keys = form_batches(self.sampler(self.seed), self.batch_size, self.groups)
        return islice(keys, iteration, None)


def build_train_loader(cfg: CfgNode, mapper: Callable[[Any], Any] | None = None) -> Any:
    """Builds batches of this process's part of ``SOLVER.IMS_PER_BATCH`` training images.

    The seed is drawn from NumPy's generator, which ``SEED`` seeds. A data set that is not a list of
    records gets Detectron2's own loader, which a resumed run starts from its beginning.
    """
    use_coco_datasets(cfg)
    groups = read_records(cfg)
    records = groups[0] if len(groups) == 1 else list(chain.from_iterable(groups))
    mapper = in_two_sizes(mapper or DatasetMapper(cfg, is_train=True), input_scale(cfg))
    if cfg.DATASETS.IGNORE_CROWD or cfg.DATASETS.UNLABELLED:
        mapper = IgnoringMapper(mapper)
    if isinstance(records, list):
        check_class_indices(cfg, records)
    else:
        logger.warning(NOT_RESUMABLE, f"{cfg.DATASETS.TRAIN}: no list of records")
        return build_detection_train_loader(cfg, mapper=mapper)
    return ResumableLoader(
        records,
        CheckedMapper(mapper),
        build_sampler(cfg, records, [len(group) for group in groups]),
        share_of_batch("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()),
        group=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        seed=comm.shared_random_seed(),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        timeout=cfg.DATALOADER.TIMEOUT,
        max_unreadable=0 if cfg.DATASETS.STRICT else cfg.DATALOADER.MAX_UNREADABLE,
    )


def read_records(cfg: CfgNode) -> list[Any]:
    """Returns the records of ``DATASETS.TRAIN``, by data set if its keys distinguish them."""
    names, unlabelled = cfg.DATASETS.TRAIN, set(cfg.DATASETS.UNLABELLED)
    if odd := sorted(unlabelled - set(names)):
        raise ValueError(f"DATASETS.UNLABELLED: got {odd[0]!r}, expected some of {list(names)}")
    if unlabelled and cfg.MODEL.META_ARCHITECTURE != DISTILLED:
        raise ValueError(
            "DATASETS.UNLABELLED: without a teacher nothing is learnt there, expected [], and "
            "DATASETS.TRAIN without these data sets"
        )
    if not (unlabelled or cfg.DATASETS.TRAIN_SHARES):
        return [_read(cfg, names)]
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError("MODEL.LOAD_PROPOSALS: got True, which DATASETS.TRAIN_SHARES has not")
    groups = [
        [without_labels(x) for x in _read(cfg, [name], filter_empty=False)]
        if name in unlabelled
        else _read(cfg, [name])
        for name in names
    ]
    with contextlib.suppress(AttributeError):  # data sets without names
        check_metadata_consistency("thing_classes", list(names))
    return groups


def _read(cfg: CfgNode, names: Sequence[str], filter_empty: bool = True) -> Any:
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    return get_detection_dataset_dicts(
        names,
        filter_empty=filter_empty and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints if cfg.MODEL.KEYPOINT_ON and filter_empty else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
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
    input_scale: float = 1.0,
    **options: Any,
) -> Any:
    """For LazyConfigs, with the arguments of Detectron2's ``build_detection_train_loader``.

    With a sampler or collate function, or a data set that is not a list of records, it is
    Detectron2's own loader, which a resumed run starts from its beginning. ``input_scale`` is the
    teacher's, see ``fam_det.data.two_sizes``.
    """
    mapper = in_two_sizes(mapper, input_scale)
    options = {key: value for key, value in options.items() if value is not None}
    if options or not isinstance(dataset, list):
        logger.warning(NOT_RESUMABLE, f"dataloader.train.{next(iter(options), 'dataset')}")
        return build_detection_train_loader(
            dataset,
            mapper=mapper,
            total_batch_size=total_batch_size,
            aspect_ratio_grouping=aspect_ratio_grouping,
            num_workers=num_workers,
            **options,
        )
    return ResumableLoader(
        dataset,
        CheckedMapper(mapper),
        uniform_sampler(len(dataset)),
        share_of_batch(
            "dataloader.train.total_batch_size", total_batch_size, comm.get_world_size()
        ),
        group=aspect_ratio_grouping,
        seed=comm.shared_random_seed(),
        num_workers=num_workers,
        timeout=timeout,
        max_unreadable=max_unreadable,
    )


def build_test_loader(dataset: Any, *, mapper: Callable[[Any], Any], **options: Any) -> Any:
    """Builds Detectron2's test loader, with errors that name the image."""
    return build_detection_test_loader(dataset, mapper=NamingMapper(mapper), **options)


def share_of_batch(key: str, images: int, processes: int) -> int:
    """Returns the images of each process; raises a ValueError unless all have as many."""
    is_valid = images >= 1 and images % processes == 0
    check_option(key, images, is_valid, f"a positive multiple of the {processes} processes")
    return images // processes
