#!/usr/bin/env python
"""Train or evaluate a detector, distilled or not, like Detectron2's ``tools/train_net.py``."""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fam_det.engine import Trainer, load_config
from fam_det.launch import launch
from fam_det.lazy import engine as lazy

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, hooks
from detectron2.evaluation import verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm

EXAMPLES = """
examples:
  tools/train_net.py --config-file FILE --num-gpus 8
  tools/train_net.py --config-file FILE --num-gpus 8 --resume
  torchrun --nproc-per-node 8 tools/train_net.py --config-file FILE
  tools/train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
  tools/train_net.py --config-file FILE SOLVER.IMS_PER_BATCH 2 MODEL.DEVICE cpu
  tools/train_net.py --config-file FILE.py dataloader.train.total_batch_size=2 train.device=cpu
"""


def test_with_augmentation(cfg: CfgNode, model: Any) -> dict[str, Any]:
    """Evaluate with test-time augmentation, which Detectron2 has for R-CNN models."""
    model = GeneralizedRCNNWithTTA(cfg, getattr(model, "student", model))
    folder = str(Path(cfg.OUTPUT_DIR) / "inference_TTA")
    evaluators = [Trainer.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
    results = Trainer.test(cfg, model, evaluators)
    return OrderedDict((f"{name}_TTA", value) for name, value in results.items())


def evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or the last checkpoint of the run."""
    model = Trainer.build_model(cfg)
    checkpointer = DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results: dict[str, Any] = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(test_with_augmentation(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> dict[str, Any]:
    """What each process of the run does."""
    in_python = args.config_file.endswith(".py")
    try:
        cfg = (lazy.load_config if in_python else load_config)(args.config_file, args.opts)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"{args.config_file}: {error}")
    if in_python:
        return lazy.run(cfg, args)
    default_setup(cfg, args)
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: test_with_augmentation(cfg, trainer.model))]
        )
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
