"""A long training of a very small distilled detector that says what it takes of the system.

Run as a program, by test_soak.py: iterations, DATASETS.COCO, output folder.
"""

import json
import sys
from pathlib import Path

import torch

from fam_det.training.detection import Trainer
from tests.modeling.small_detector import STUDENTS, small_config

from detectron2.engine import HookBase

TIMM = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "test_efficientnet"]
OPTIONS = [
    *("MODEL.STUDENT.META_ARCHITECTURE", "RetinaNet", *STUDENTS["RetinaNet"], *TIMM),
    *("MODEL.RETINANET.NUM_CONVS", "1", "MODEL.TEACHER.OPTS", str(TIMM)),
    *("MODEL.DISTILLER.FAM.FILTER", "separable", "MODEL.DISTILLER.LEVELS", "['p3', 'p4']"),
    *("INPUT.MIN_SIZE_TRAIN", str(tuple(range(32, 65))), "INPUT.MIN_SIZE_TEST", "48"),
    *("SEED", "1", "SOLVER.BASE_LR", "0.0001", "SOLVER.IMS_PER_BATCH", "1"),
    *("SOLVER.CHECKPOINT_PERIOD", "100", "SOLVER.CHECKPOINT_KEEP", "2", "SOLVER.STEPS", "()"),
    *("TEST.EVAL_PERIOD", "250", "DATALOADER.NUM_WORKERS", "1"),
]
AT = (100, 200, 500, 1000, 1500, 2000)


class Watch(HookBase):
    """Resident memory in MB, open files and threads of this process after some iterations."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done in AT:
            status = Path("/proc/self/status").read_text()
            of = {x: int(status.split(f"{x}:")[1].split()[0]) for x in ("VmRSS", "Threads")}
            self.seen[done] = {
                "memory": of["VmRSS"] / 1024,
                "files": len(list(Path("/proc/self/fd").iterdir())),
                "threads": of["Threads"],
            }


def main() -> None:
    """Train, and print what was seen."""
    iterations, cells, folder = sys.argv[1:]
    torch.set_num_threads(1)
    words = [*OPTIONS, "SOLVER.MAX_ITER", iterations, "DATASETS.COCO", cells]
    trainer = Trainer(small_config(*words, "OUTPUT_DIR", folder))
    trainer.resume_or_load(resume=False)
    watch = Watch()
    trainer.register_hooks([watch])
    trainer.train()
    print(json.dumps(watch.seen))


if __name__ == "__main__":
    main()
