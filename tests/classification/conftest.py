"""A config that trains in seconds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from classification.config import get_cfg

from detectron2.config import CfgNode

MakeCfg = Callable[..., CfgNode]


@pytest.fixture
def make_cfg(tmp_path: Path) -> MakeCfg:
    """FAM-KD from resnet14 to resnet8 on random images, with KEY VALUE changes."""

    def make(*opts: object) -> CfgNode:
        cfg = get_cfg()
        cfg.merge_from_list(
            [
                *("SEED", 3, "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"),
                *("DATASETS.NAME", "fake", "MODEL.NUM_CLASSES", 10),
                *("MODEL.STUDENT.NAME", "resnet8", "MODEL.TEACHER.NAME", "resnet14"),
                *("MODEL.DISTILLER.NAME", "KnowledgeReviewDistiller"),
                *("SOLVER.IMS_PER_BATCH", 8, "SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", 6),
                *("SOLVER.STEPS", (4,), "SOLVER.CHECKPOINT_PERIOD", 3, "TEST.EVAL_PERIOD", 2),
                *opts,
            ]
        )
        return cfg

    return make
