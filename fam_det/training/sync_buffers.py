"""Running means of BatchNorms: each process has its own, an evaluation takes the first one's."""

import torch.distributed as dist

from detectron2.engine import HookBase
from detectron2.utils import comm


class SameBuffers(HookBase):
    """Before an evaluation, gives every process the buffers of the first, whose are saved.

    Otherwise each would evaluate its share of the images with another model, and with yet another
    after a resume.

    Args:
        period: iterations between two evaluations; 0 for one at the end.
    """

    def __init__(self, period: int) -> None:
        self.period = period

    def after_step(self) -> None:
        """At the iterations of Detectron2's EvalHook."""
        done = self.trainer.iter + 1
        last = done >= self.trainer.max_iter
        if comm.get_world_size() > 1 and (last or (self.period > 0 and done % self.period == 0)):
            for buffer in self.trainer.model.buffers():
                dist.broadcast(buffer, 0)
