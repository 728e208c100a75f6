"""The same seed gives the same run, resumed or not."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fam_det.data.seeding import derive_seed, seed_cpu

from detectron2.engine import HookBase
from detectron2.utils import comm


def make_deterministic(seed: int) -> None:
    """Switches this process to deterministic algorithms on GPUs.

    PyTorch warns of the operators that have none, once each; docs/reliability.md lists them. A seed
    that each run draws for itself is a ValueError.
    """
    if seed < 0:
        raise ValueError(f"DETERMINISTIC: got True with SEED {seed}, expected a SEED of 0 or more")
    # As PyTorch's notes on reproducibility say; cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def same_from_the_first(model: nn.Module) -> AbstractContextManager[None]:
    """Within this context TorchScript computes the same in a process's first iteration and later.

    It optimises a function such as RetinaNet's focal loss after its first call, and the gradients
    then differ in their last bits: a resumed run would not be the unbroken one. On GPUs it may
    optimise, unless they are to be deterministic.
    """
    on_cpu = all(x.device.type == "cpu" for x in model.parameters())
    if on_cpu or torch.are_deterministic_algorithms_enabled():
        return torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return nullcontext()


class RunSeed:
    """The seed of a run, as a checkpointable: a resumed run takes its checkpoint's.

    It is that of the loader, if the loader has one, and a resumed run sets that too.
    """

    def __init__(self, loader: object, seed: int) -> None:
        self.loader = loader
        self.seed = getattr(loader, "seed", seed)

    def state_dict(self) -> dict[str, int]:
        """Returns the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes a checkpoint's seed."""
        self.seed = state["seed"]
        if hasattr(self.loader, "seed"):
            self.loader.seed = self.seed


class SeedEachIteration(HookBase):
    """Seeds every generator of this process before an iteration, by run, process and iteration.

    So nothing random has to be in a checkpoint, and an evaluation in between changes nothing.
    """

    def __init__(self, run: RunSeed) -> None:
        self.run = run

    def before_step(self) -> None:
        """Seeds Python, NumPy and PyTorch, on GPUs too."""
        place = comm.get_rank(), self.trainer.iter
        seed = derive_seed(self.run.seed, "iteration", *place)
        seed_cpu(seed)
        torch.manual_seed(seed)
