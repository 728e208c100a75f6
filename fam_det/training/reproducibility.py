"""Makes a run a function of its seed, whether it is resumed or not."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from fam_det.data.seeding import derive_seed, seed_cpu

from detectron2.engine import HookBase
from detectron2.utils import comm


def make_deterministic(seed: int) -> None:
    """Switches this process to deterministic algorithms on GPUs.

    PyTorch warns once of each operator that has no such algorithm; docs/reliability.md lists them.

    Raises:
        ValueError: a negative seed, for which each run draws another.
    """
    if seed < 0:
        raise ValueError(f"DETERMINISTIC: got True with SEED {seed}, expected a SEED of 0 or more")
    # As PyTorch's notes on reproducibility say; cuBLAS reads it when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def without_jit_optimization(model: nn.Module) -> AbstractContextManager[None]:
    """Turns off TorchScript's optimisation within this context, on CPUs and if deterministic.

    TorchScript optimises a function such as RetinaNet's focal loss after its first call, which
    changes the last bits of gradients: a resumed run would differ from an uninterrupted one. On
    GPUs, which are not reproducible to the bit anyway, it stays on.
    """
    on_cpu = all(x.device.type == "cpu" for x in model.parameters())
    if on_cpu or torch.are_deterministic_algorithms_enabled():
        return torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return nullcontext()


class RunSeed:
    """The seed of a run as a checkpointable, so that a resumed run has the same one.

    If the loader has a seed, this is the same, also after a resume.
    """

    def __init__(self, loader: object, seed: int) -> None:
        self.loader = loader
        self.seed = getattr(loader, "seed", seed)

    def state_dict(self) -> dict[str, int]:
        """Returns the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restores the seed, that of the loader as well."""
        self.seed = state["seed"]
        if hasattr(self.loader, "seed"):
            self.loader.seed = self.seed


class SeedEachIteration(HookBase):
    """Seeds every generator before an iteration, by the run's seed, the process and the iteration.

    So no generator's state has to be in a checkpoint, and an evaluation changes nothing.
    """

    def __init__(self, run: RunSeed) -> None:
        self.run = run

    def before_step(self) -> None:
        """Seeds Python, NumPy and PyTorch, on GPUs too."""
        place = comm.get_rank(), self.trainer.iter
        seed = derive_seed(self.run.seed, "iteration", *place)
        seed_cpu(seed)
        torch.manual_seed(seed)
