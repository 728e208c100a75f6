#!/usr/bin/env python
"""Train or evaluate a classifier, distilled or not, as ``tools/train_net.py`` does a detector."""

import argparse
from functools import partial
from typing import Any

from classification.engine import Trainer, load_config
from fam_det.training.launch import run, start_tool

EXAMPLES = """
examples:
  tools/train_classifier.py --config-file FILE
  tools/train_classifier.py --config-file FILE --resume
  torchrun --nproc-per-node 8 tools/train_classifier.py --config-file FILE
  tools/train_classifier.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_best.pth
  tools/train_classifier.py --config-file FILE MODEL.DEVICE cpu SOLVER.SCHEDULE_SCALE 0.1
"""


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Runs in each process."""
    if args.strict:
        args.opts += ["DATALOADER.MAX_UNREADABLE", "0"]
    unsafe = args.allow_unsafe_config
    load = partial(load_config, args.config_file, args.opts, allow_unsafe=unsafe)
    return run(args, load, Trainer.prepare)


def invoke_main() -> None:
    """Starts one process per device."""
    start_tool(main, EXAMPLES)


if __name__ == "__main__":
    invoke_main()
