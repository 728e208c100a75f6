#!/usr/bin/env python
"""Train or evaluate a classifier, distilled or not, as ``tools/train_net.py`` does a detector."""

import argparse
import sys
from typing import Any

from classification.engine import Trainer, load_config
from fam_det.launch import launch

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

EXAMPLES = """
examples:
  tools/train_classifier.py --config-file FILE
  tools/train_classifier.py --config-file FILE --resume
  torchrun --nproc-per-node 8 tools/train_classifier.py --config-file FILE
  tools/train_classifier.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_best.pth
  tools/train_classifier.py --config-file FILE MODEL.DEVICE cpu SOLVER.SCHEDULE_SCALE 0.1
"""


def evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or the last checkpoint of the run."""
    model = Trainer.build_model(cfg)
    checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> dict[str, Any]:
    """What each process of the run does."""
    try:
        cfg = load_config(args.config_file, args.opts)
        default_setup(cfg, args)
        if args.eval_only:
            return evaluate(cfg, args.resume)
        trainer = Trainer(cfg)
    except (ValueError, OSError, KeyError, ImportError) as error:
        sys.exit(f"{args.config_file}: {error}")
    trainer.resume_or_load(resume=args.resume)
    results: dict[str, Any] = trainer.train()
    return results


def invoke_main() -> None:
    """Start one process a device."""
    args = default_argument_parser(epilog=EXAMPLES).parse_args()
    if not args.config_file:
        sys.exit("--config-file: missing; give one of the files in configs/ or your own")
    launch(main, args)


if __name__ == "__main__":
    invoke_main()
