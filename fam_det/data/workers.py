"""Worker processes that load batches, and what becomes of the training when one is lost."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

BatchType = TypeVar("BatchType")

RESTARTS = 3  # in a row: a worker that dies again and again has a reason
logger = logging.getLogger(__name__)


def in_worker(_: int) -> None:
    """For ``worker_init_fn``: Ctrl-C and its like are the training process's to answer."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def keeping_child_signals() -> Iterator[None]:
    """Within this context PyTorch's DataLoader may start workers; a lost one interrupts nothing.

    PyTorch would have a signal handler raise an error anywhere, in the middle of the optimiser's
    step. Without it the loader speaks of the lost worker when it is asked for a batch.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if in_main_thread and before is not None:
            signal.signal(signal.SIGCHLD, before)


def starting_workers(loader: Any) -> Iterator[Any]:
    """An iterator of PyTorch's DataLoader that speaks of a lost worker when asked for a batch."""
    with keeping_child_signals():
        return iter(loader)


def outliving_workers(
    batches_from: Callable[[int], Iterable[BatchType]], start: int
) -> Iterator[BatchType]:
    """Batches from an iteration on; with new workers where a worker was killed or is stuck.

    Args:
        batches_from: gives the batches from an iteration on, always the same ones.
        start: the iteration that comes first.

    Raises:
        RuntimeError: workers were lost four times without a batch in between.
    """
    iteration, lost = start, 0
    while True:
        try:
            for batch in batches_from(iteration):
                iteration, lost = iteration + 1, 0
                yield batch
            return
        except RuntimeError as error:
            lost += 1
            if not _is_lost_worker(error) or lost > RESTARTS:
                raise
            reason = str(error).splitlines()[0]
            logger.warning("Iteration %d: new loader workers, because: %s", iteration, reason)


class OutlivingLoader:
    """A loader of an evaluation that goes on with new workers where one was killed or is stuck.

    Args:
        loader: PyTorch's, without workers so far; it gives the same batches each time.
        timeout: seconds after which a worker counts as stuck; 0 for never.
    """

    def __init__(self, loader: Any, timeout: float) -> None:
        self.loader = loader
        if loader.num_workers:
            loader.timeout = timeout
            loader.worker_init_fn = in_worker

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """The batches."""
        return outliving_workers(lambda k: islice(starting_workers(self.loader), k, None), 0)


def _is_lost_worker(error: RuntimeError) -> bool:
    """Whether PyTorch's loader says so: a worker was killed, or gave nothing in time."""
    text = str(error)
    return text.startswith("DataLoader worker (pid") or text.startswith("DataLoader timed out")
