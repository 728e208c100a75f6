"""Distilled steps on this process's share of a batch; started by test_ddp.py through torchrun.

With one process it has the whole batch. The weights after the last step go to the file named.
"""

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fam_det.modeling.hooks import captured_backbone
from tests.modeling.small_detector import images, in_training, small_config

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

IMAGES, STEPS = 4, 4


class DistillationOnly(torch.nn.Module):
    """The loss of the distiller alone: the student's own draw random proposals, in float32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: list[dict[str, Any]]) -> torch.Tensor:
        """The weighted loss."""
        with captured_backbone(self.model.backbone) as captured:
            self.model.backbone(self.model.preprocess_image(batch).tensor)
        loss: torch.Tensor = self.model._distill(
            batch, captured["features"], captured["padded_size"], {}
        )
        return loss


def main(file: str, *opts: str) -> None:
    """Train on the distillation loss."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = in_training(build_model(small_config(*opts)).double())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("backbone.", "distiller.")))
    ddp = DistributedDataParallel(DistillationOnly(model), broadcast_buffers=False)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.02, 0.9)
    share = IMAGES // dist.get_world_size()
    first = share * dist.get_rank()
    for step in range(STEPS):
        batch = [images((64, 96), seed=IMAGES * step + i)[0] for i in range(first, first + share)]
        with EventStorage(step):
            loss = ddp(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if dist.get_rank() == 0:
        torch.save({k: p.detach() for k, p in model.named_parameters() if p.requires_grad}, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
