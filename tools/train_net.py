#!/usr/bin/env python
"""Train or evaluate a detector, distilled or not, like Detectron2's ``tools/train_net.py``."""

import argparse
from functools import partial
from typing import Any

from fam_det.training.detection import LazyTrainer, Trainer, load_config, load_lazy_config
from fam_det.training.launch import run, start_tool

EXAMPLES = """
examples:
  tools/train_net.py --config-file FILE --num-gpus 8
  tools/train_net.py --config-file FILE --num-gpus 8 --resume
  torchrun --nproc-per-node 8 tools/train_net.py --config-file FILE
  tools/train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
  tools/train_net.py --config-file FILE SOLVER.IMS_PER_BATCH 2 MODEL.DEVICE cpu
  tools/train_net.py --config-file FILE.py dataloader.train.total_batch_size=2 train.device=cpu
"""


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Runs in each process."""
    file, opts = args.config_file, args.opts
    if file.endswith(".py"):
        opts += ["datasets.strict=True"] if args.strict else []
        opts += ["datasets.allow_odd_boxes=True"] if args.allow_odd_boxes else []
        load_lazy = partial(load_lazy_config, file, opts, eval_only=args.eval_only)
        return run(args, load_lazy, LazyTrainer.prepare)
    opts += ["DATASETS.STRICT", "True"] if args.strict else []
    opts += ["DATASETS.ALLOW_ODD_BOXES", "True"] if args.allow_odd_boxes else []
    options = {"allow_unsafe": args.allow_unsafe_config, "eval_only": args.eval_only}
    load = partial(load_config, file, opts, **options)
    return run(args, load, Trainer.prepare)


def invoke_main() -> None:
    """Starts one process per device."""
    start_tool(main, EXAMPLES, also_strict=", and at boxes that cannot be used as they are")


if __name__ == "__main__":
    invoke_main()
