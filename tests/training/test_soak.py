"""2,000 iterations on images of random sizes: memory, open files and threads do not grow.

The training runs as a program: iterations, DATASETS.COCO, output folder.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fam_det.training.detection import Trainer
from tests.modeling.small_detector import STUDENTS, small_config

from detectron2.engine import HookBase

ROOT = Path(__file__).parent.parent.parent
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


class Usage(HookBase):
    """Resident memory in MB, open files and threads of this process after some iterations."""

    def __init__(self) -> None:
        self.usage: dict[int, dict[str, float]] = {}

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done in AT:
            status = Path("/proc/self/status").read_text()
            of = {x: int(status.split(f"{x}:")[1].split()[0]) for x in ("VmRSS", "Threads")}
            self.usage[done] = {
                "memory": of["VmRSS"] / 1024,
                "files": len(list(Path("/proc/self/fd").iterdir())),
                "threads": of["Threads"],
            }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_grows(tmp_path: Path, cells: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.test_soak", "2000", cells, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    usage = {int(k): x for k, x in json.loads(done.stdout.splitlines()[-1]).items()}
    print(json.dumps(usage))
    assert usage[2000]["files"] <= usage[200]["files"]
    assert usage[2000]["threads"] <= usage[200]["threads"]
    # MB; a copy of the student's weights a hundred iterations would be 100.
    assert usage[2000]["memory"] - usage[1000]["memory"] < 10
    assert usage[1000]["memory"] - usage[200]["memory"] < 30


def main() -> None:
    iterations, dataset, folder = sys.argv[1:]
    torch.set_num_threads(1)
    options = [*OPTIONS, "SOLVER.MAX_ITER", iterations, "DATASETS.COCO", dataset]
    trainer = Trainer(small_config(*options, "OUTPUT_DIR", folder))
    trainer.resume_or_load(resume=False)
    hook = Usage()
    trainer.register_hooks([hook])
    trainer.train()
    print(json.dumps(hook.usage))


if __name__ == "__main__":
    main()
