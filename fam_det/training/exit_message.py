"""The last line of a training that a fault has ended: what to do, after Detectron2's traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

FAULTS = (FloatingPointError, OSError, ValueError, torch.OutOfMemoryError)
LESS_MEMORY = (
    "out of GPU memory; lower SOLVER.IMS_PER_BATCH, INPUT.MIN_SIZE_TRAIN or "
    "MODEL.DISTILLER.MID_CHANNELS, leave out a level (MODEL.DISTILLER.LEVELS) or set "
    "SOLVER.AMP.ENABLED True"
)


@contextmanager
def ending_in_one_line(folder: str) -> Iterator[None]:
    """Let a fault inside end the process with a line that says what is kept, and exit code 1.

    Args:
        folder: of the run, for what to go on from.
    """
    try:
        yield
    except FAULTS as error:
        text = str(error).strip()
        if text.startswith("Caught "):  # in a loader worker, whose traceback PyTorch puts here
            text = text.splitlines()[-1]
        text = " ".join(text.split())
        if isinstance(error, torch.OutOfMemoryError):
            text = f"{LESS_MEMORY} ({text.partition('. ')[0]})"
        sys.exit(f"{text}; {kept_in(folder)}")


def kept_in(folder: str) -> str:
    """What a run has left to go on from."""
    tag = Path(folder) / "last_checkpoint"
    if not tag.is_file():
        return "no checkpoint was written yet"
    return f"kept: {Path(folder) / tag.read_text().strip()}; go on with --resume"
