"""SIGTERM and Ctrl-C: the iteration ends, a checkpoint is written, and the process leaves."""

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
# Seconds in which signals are one: torchrun passes on what its processes have got themselves.
ECHO = 3.0
logger = logging.getLogger(__name__)


class StopOnSignal(HookBase):
    """Ends a training at the end of an iteration, in every process at the same one.

    The exit code is 128 and the signal's number, as a shell has it. A second signal, ``ECHO``
    seconds later, ends the process at once, and so does the time: a process that is stuck, waiting
    for one that is gone, ends after ``GRACE`` seconds. Put it after the checkpointing hook and
    before the evaluation: a signal during an evaluation is answered at once by the first process,
    whose end is then the others'.
    """

    def __init__(self, checkpointer: SafeCheckpointer) -> None:
        self.checkpointer = checkpointer
        self.received: signal.Signals | None = None
        self.received_at = 0.0
        self.between_steps = False
        self.before: dict[signal.Signals, Any] = {}

    def before_train(self) -> None:
        """Takes the signals; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        self.deadline = _Deadline()

    def after_train(self) -> None:
        """Gives the signals back; an error of a process that was told to leave is that it left."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.before:
            self.deadline.cancel()
        self.before = {}
        if self.received is not None and isinstance(sys.exc_info()[1], Exception):
            raise SystemExit(128 + self.received)

    def before_step(self) -> None:
        """Notes that from here on the weights change."""
        self.between_steps = False

    def after_step(self) -> None:
        """Leaves if any process was told to."""
        self.between_steps = comm.is_main_process()
        told = [number for number in comm.all_gather(self.received) if number is not None]
        if told and self.trainer.iter + 1 < self.trainer.max_iter:
            self._leave(told[0], together=True)

    def _receive(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None:
            if now - self.received_at < ECHO:
                return
            raise SystemExit(128 + number)
        self.received, self.received_at = signal.Signals(number), now
        if self.between_steps:
            self._leave(self.received, together=False)
        logger.info("%s: ending the iteration", self.received.name)

    def _leave(self, number: signal.Signals, *, together: bool) -> None:
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
            comm.synchronize()  # torchrun ends the others as soon as one has left
        raise SystemExit(128 + number)


class _Deadline:
    """Ends this process some time after a signal, even where Python cannot answer it."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.before = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, daemon=True).start()

    def cancel(self) -> None:
        self.cancelled.set()
        signal.set_wakeup_fd(self.before)
        os.close(self.write)

    def _wait(self) -> None:
        while received := os.read(self.read, 1):
            if received[0] in SIGNALS and not self.cancelled.wait(GRACE):
                os._exit(128 + received[0])
        os.close(self.read)
