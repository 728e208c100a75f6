"""Output folders as a training leaves them, with figures made up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fam_det.core import KnowledgeReview

MakeRun = Callable[..., Path]
LAST = 100  # iterations


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run of a classifier with three evaluations, and two stages of FAM if it is distilled."""

    def make(name: str, seed: int = 1, *, top1: float = 70.0, distiller: str = "fam") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump(config(seed, distiller, str(folder))))
        lines: list[dict[str, Any]] = []
        for step, iteration in enumerate((19, 59, 99)):
            line: dict[str, Any] = {"iteration": iteration, "time": 0.5}
            if distiller == "fam":
                for stage in ("stage1", "pooled"):
                    line[f"distiller/gamma_global_{stage}"] = 0.5 + step
                    line[f"distiller/gamma_local_{stage}"] = 0.25
            lines.append({**line, "accuracy/top1": top1 - 10.0 * (2 - step)})
        (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        torch.save({"model": weights(distiller)}, folder / "model_final.pth")
        return folder

    return make


def config(seed: int, distiller: str, output: str) -> dict[str, Any]:
    name = "KnowledgeReviewDistiller" if distiller else ""
    fam = {"FILTER": "dense", "HIGH_PASS": "ideal", "CUTOFF": 0.5, "ORDER": 2}
    node = {"NAME": name, "FUSION": "cross_attention", "TRANSFORM": "fam", "FAM": fam}
    return {
        "SEED": seed,
        "OUTPUT_DIR": output,
        "DATASETS": {"NAME": "cifar100"},
        "MODEL": {
            "STUDENT": {"NAME": "resnet8x4"},
            "TEACHER": {"NAME": "resnet32x4"},
            "DISTILLER": node,
        },
        "SOLVER": {"MAX_ITER": LAST},
    }


def weights(distiller: str) -> dict[str, torch.Tensor]:
    """A student of 3 * 2 + 2 parameters, and the distiller's."""
    student = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    state = dict(student.state_dict())
    if distiller:
        review = KnowledgeReview([2, 3], [2, 3], [4, 3], sizes=[8, 1])
        state |= {f"distiller.transform.{k}": v for k, v in review.state_dict().items()}
    return state
