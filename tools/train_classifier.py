#!/usr/bin/env python
"""Train or evaluate a classifier, distilled or not, as ``tools/train_net.py`` does a detector."""

import argparse
import sys
from typing import Any

from classification.engine import Trainer, load_config
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling.student_wrapper import parts_of_student
from fam_det.training.command_line import add_strict_flag, add_unsafe_flag, one_line
from fam_det.training.exit_message import ending_in_one_line
from fam_det.training.launch import launch, set_up

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
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


def load_model(cfg: CfgNode, resume: bool) -> Any:
    """The model with ``MODEL.WEIGHTS``, or with the last checkpoint of the run."""
    model = Trainer.build_model(cfg)
    # MODEL.STUDENT.WEIGHTS may have all that an evaluation needs
    needed = parts_of_student(model) if cfg.MODEL.WEIGHTS else ()
    checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR, needed=needed)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return model


def load_trainer(cfg: CfgNode, resume: bool) -> Trainer:
    """The trainer with ``MODEL.WEIGHTS``, or where the run was."""
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def evaluate(cfg: CfgNode, model: Any) -> dict[str, Any]:
    """Evaluate a model on the test images."""
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> dict[str, Any]:
    """What each process of the run does."""
    if args.strict:
        args.opts += ["DATALOADER.MAX_UNREADABLE", "0"]
    try:
        unsafe = args.allow_unsafe_config
        cfg = load_config(args.config_file, args.opts, allow_unsafe=unsafe)
        set_up(cfg, args, cfg.OUTPUT_DIR)
        loaded = (load_model if args.eval_only else load_trainer)(cfg, args.resume)
    except (ValueError, OSError, KeyError, ImportError) as error:
        sys.exit(one_line(args.config_file, error))
    if args.eval_only:
        return evaluate(cfg, loaded)
    with ending_in_one_line(cfg.OUTPUT_DIR):
        results: dict[str, Any] = loaded.train()
    return results


def invoke_main() -> None:
    """Start one process a device."""
    parser = default_argument_parser(epilog=EXAMPLES)
    add_unsafe_flag(parser)
    add_strict_flag(parser)
    args = parser.parse_args()
    if not args.config_file:
        sys.exit("--config-file: missing; give one of the files in configs/ or your own")
    launch(main, args)


if __name__ == "__main__":
    invoke_main()
