"""Everything random as a function of a seed and a place in the training.

So an unbroken run and a resumed one, one worker and many see the same.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *place: int) -> int:
    """Returns a 64-bit seed for a purpose and a place, such as an epoch; numbers are 0 or more."""
    entropy = (seed, zlib.crc32(purpose.encode()), *place)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def seed_cpu(seed: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch on the CPU, with up to 64 bits."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds what is drawn on the CPU inside; outside, the generators continue undisturbed."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    seed_cpu(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])
