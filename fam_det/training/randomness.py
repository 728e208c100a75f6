"""Everything random as a function of a seed and a place in the training.

An unbroken run and a resumed one, one worker and many so see the same.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fam_det import detectron2_compat

detectron2_compat.apply()

from detectron2.engine import HookBase  # noqa: E402
from detectron2.utils import comm  # noqa: E402


def derive_seed(seed: int, purpose: str, *place: int) -> int:
    """A seed of its own for each purpose and place; 64 bits.

    Args:
        seed: of the run, 0 or more.
        purpose: keeps the draws for one thing apart from those for another.
        place: numbers such as the epoch, 0 or more.
    """
    entropy = (seed, zlib.crc32(purpose.encode()), *place)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def seed_cpu(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on the CPU, with up to 64 bits."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside on the CPU is the seed's; outside, the generators go on as before."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    seed_cpu(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


class RunSeed:
    """The seed of a run, as a checkpointable: a resumed run goes on with its checkpoint's.

    Args:
        loader: of the training; one with an attribute ``seed`` shares this seed.
        seed: of a run whose loader has none.
    """

    def __init__(self, loader: object, seed: int) -> None:
        self.loader = loader
        self.seed = getattr(loader, "seed", seed)

    def state_dict(self) -> dict[str, int]:
        """The seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up a checkpoint's seed."""
        self.seed = state["seed"]
        if hasattr(self.loader, "seed"):
            self.loader.seed = self.seed


class SeedEachIteration(HookBase):
    """Seed every generator of this process before an iteration, by the run, process and iteration.

    So nothing random has to be in a checkpoint, and an evaluation in between changes nothing.
    """

    def __init__(self, run: RunSeed) -> None:
        self.run = run

    def before_step(self) -> None:
        """Seed Python, NumPy and PyTorch, on GPUs too."""
        place = comm.get_rank(), self.trainer.iter
        seed = derive_seed(self.run.seed, "iteration", *place)
        seed_cpu(seed)
        torch.manual_seed(seed)
