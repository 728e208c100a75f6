#!/usr/bin/env python
"""Train or evaluate a detector, distilled or not, like Detectron2's ``tools/train_net.py``."""

import argparse
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling.student_wrapper import parts_of_student
from fam_det.training import lazy
from fam_det.training.command_line import add_strict_flag, add_unsafe_flag, one_line
from fam_det.training.detection import Trainer, load_config
from fam_det.training.exit_message import ending_in_one_line
from fam_det.training.launch import launch, set_up

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, hooks
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


def load_model(cfg: CfgNode, resume: bool) -> Any:
    """The model with ``MODEL.WEIGHTS``, or with the last checkpoint of the run."""
    model = Trainer.build_model(cfg)
    checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR, needed=parts_of_student(model))
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def load_trainer(cfg: CfgNode, resume: bool) -> Trainer:
    """The trainer with ``MODEL.WEIGHTS``, or where the run was."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def evaluate(cfg: CfgNode, model: Any) -> dict[str, Any]:
    """Evaluate a model on ``DATASETS.TEST``."""
    results: dict[str, Any] = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(test_with_augmentation(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> dict[str, Any]:
    """What each process of the run does."""
    in_python = args.config_file.endswith(".py")
    if args.strict:
        args.opts += ["datasets.strict=True"] if in_python else ["DATASETS.STRICT", "True"]
    try:
        if in_python:
            cfg = lazy.load_config(args.config_file, args.opts)
        else:
            unsafe = args.allow_unsafe_config
            cfg = load_config(args.config_file, args.opts, allow_unsafe=unsafe)
            set_up(cfg, args, cfg.OUTPUT_DIR)
            loaded = (load_model if args.eval_only else load_trainer)(cfg, args.resume)
    except (ValueError, OSError, KeyError, ImportError) as error:
        sys.exit(one_line(args.config_file, error))
    if in_python:
        with ending_in_one_line(cfg.train.output_dir):
            return lazy.run(cfg, args)
    return evaluate(cfg, loaded) if args.eval_only else train(cfg, loaded)


def train(cfg: CfgNode, trainer: Trainer) -> dict[str, Any]:
    """Train to the end of the schedule."""
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks(
            [hooks.EvalHook(0, lambda: test_with_augmentation(cfg, trainer.model))]
        )
    with ending_in_one_line(cfg.OUTPUT_DIR):
        results: dict[str, Any] = trainer.train()
    return results


def invoke_main() -> None:
    """Start one process a device."""
    parser = default_argument_parser(epilog=EXAMPLES)
    add_unsafe_flag(parser)
    add_strict_flag(parser, ", and at boxes that cannot be used as they are")
    args = parser.parse_args()
    if not args.config_file:
        sys.exit("--config-file: missing; give one of the files in configs/ or your own")
    launch(main, args)


if __name__ == "__main__":
    invoke_main()
