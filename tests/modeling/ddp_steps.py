"""Two training steps in each process of a group; started by test_ddp.py through torchrun."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.modeling.small_detector import images, in_training, small_config

from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage


def main() -> None:
    """Train on different images in each process, then compare the weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    cfg = small_config()
    model = in_training(build_model(cfg))
    ddp = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = build_optimizer(cfg, ddp)
    with EventStorage(0):
        for step in range(2):
            # the second step fails if a parameter got no gradient in the first
            losses = ddp(images((64, 96), seed=10 * rank + step))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    total = torch.stack([p.detach().double().sum() for p in model.parameters()])
    other = total.clone()
    dist.all_reduce(other, op=dist.ReduceOp.MAX)
    assert torch.equal(total, other), "the processes' weights differ"
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
