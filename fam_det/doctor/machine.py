"""Python, and what the machine gives a training: cores, shared memory, room on the disk."""

import os
import platform
import shutil
import sys
from pathlib import Path

from fam_det.doctor.fact import GAP, NOTE, OK, Fact, in_gigabytes

OLDEST, NEWEST = (3, 10), (3, 13)  # of Python
SHARED = Path("/dev/shm")
LEAST_SHARED = 1e9  # bytes; the workers of a data loader pass whole batches
LEAST_DISK, ENOUGH_DISK = 1e9, 20e9  # bytes; a run on COCO writes 36 checkpoints


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_python() -> list[Fact]:
    """Its version and place."""
    found = f"{platform.python_version()}, {sys.executable}"
    expected = f"use Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    if sys.version_info < OLDEST:
        return [Fact(GAP, "Python", found, expected)]
    if sys.version_info[:2] > NEWEST:
        return [Fact(NOTE, "Python", found, f"not tested with it: {expected}")]
    return [Fact(OK, "Python", found)]


def check_disk(output: Path) -> list[Fact]:
    """Room for checkpoints where ``output`` is or will be, and whether one may write there."""
    there = next(folder for folder in (output, *output.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    name, found = "disk", f"{in_gigabytes(free)} free for {output}"
    if not os.access(there, os.W_OK):
        advice = "set OUTPUT_DIR to a folder you may write to"
        return [Fact(GAP, name, f"{there} is read-only", advice)]
    advice = "free some, or set OUTPUT_DIR to a folder on another disk"
    if free < LEAST_DISK:
        return [Fact(GAP, name, found, advice)]
    if free < ENOUGH_DISK:
        return [Fact(NOTE, name, found, f"a run on COCO may need more: {advice}")]
    return [Fact(OK, name, found)]


def check_shared_memory() -> list[Fact]:
    """Containers often have 64 MB, and the workers of a data loader then die of a bus error."""
    if not SHARED.is_dir():
        return []
    total = shutil.disk_usage(SHARED).total
    found = in_gigabytes(total)
    if total < LEAST_SHARED:
        advice = "add DATALOADER.NUM_WORKERS 0, or start the container with --shm-size 8g"
        return [Fact(NOTE, "shared memory", found, advice)]
    return [Fact(OK, "shared memory", found)]
