"""Handles SIGTERM and Ctrl-C: ends the iteration, writes a checkpoint, and exits."""

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from fam_det.files.checkpointer import SafeCheckpointer

from detectron2.engine import HookBase
from detectron2.utils import comm

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 60.0  # seconds for the iteration and the checkpoint
# Seconds in which a second signal is ignored: torchrun forwards what its processes got directly.
ECHO = 3.0
logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """Ends a training at the end of an iteration, the same one in every process.

    The exit code is 128 plus the signal's number, as in a shell. A second signal after ``ECHO``
    seconds exits at once. A process that is stuck, waiting for one that is gone, is ended after
    ``GRACE`` seconds. Register this hook after the checkpointing one and before the evaluation: in
    an evaluation the first process exits at once, which ends the others.
    """

    def __init__(self, checkpointer: SafeCheckpointer) -> None:
        self.checkpointer = checkpointer
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self.between_steps = False
        self.old_handlers: dict[signal.Signals, Any] = {}

    def before_train(self) -> None:
        """Installs the handlers; Python allows that only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.old_handlers = {number: signal.signal(number, self._receive) for number in SIGNALS}
        self.deadline = _Deadline()

    def after_train(self) -> None:
        """Restores the old handlers, and exits if a signal was received."""
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)
        if self.old_handlers:
            self.deadline.cancel()
        self.old_handlers = {}
        # An error after a signal is most likely its consequence: another process has exited.
        if self.received is not None and isinstance(sys.exc_info()[1], Exception):
            raise SystemExit(128 + self.received)

    def before_step(self) -> None:
        """Forbids checkpoints until the step is complete."""
        self.between_steps = False

    def after_step(self) -> None:
        """Exits if any process has received a signal."""
        self.between_steps = comm.is_main_process()
        received = [number for number in comm.all_gather(self.received) if number is not None]
        if received and self.trainer.iter + 1 < self.trainer.max_iter:
            self._exit(received[0], together=True)

    def _receive(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None:
            if now - self.received_at < ECHO:
                return
            raise SystemExit(128 + number)
        self.received, self.received_at = signal.Signals(number), now
        if self.between_steps:
            self._exit(self.received, together=False)
        logger.info("%s: ending the iteration", self.received.name)

    def _exit(self, number: signal.Signals, *, together: bool) -> None:
        iteration = self.trainer.iter
        if comm.is_main_process():
            name = f"model_{iteration:07d}"
            self.checkpointer.save(name, iteration=iteration)
            logger.warning(
                "%s: stopped after iteration %d of %d, saved in %s; continue with --resume",
                *(number.name, iteration + 1, self.trainer.max_iter),
                Path(self.checkpointer.save_dir) / f"{name}.pth",
            )
        if together:
            comm.synchronize()  # torchrun ends the others as soon as one has exited
        raise SystemExit(128 + number)


class _Deadline:
    """Ends this process ``GRACE`` seconds after a signal, even if no Python handler can run.

    Python's handlers run in the main thread, which may be stuck in C. The interpreter still writes
    a signal's number to the wakeup file descriptor, which a thread reads.
    """

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.old_fd = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, daemon=True).start()

    def cancel(self) -> None:
        self.cancelled.set()
        signal.set_wakeup_fd(self.old_fd)
        os.close(self.write)

    def _wait(self) -> None:
        while received := os.read(self.read, 1):
            if received[0] in SIGNALS and not self.cancelled.wait(GRACE):
                os._exit(128 + received[0])
        os.close(self.read)
