"""Output folders as trainings leave them, with made-up figures, and a small study."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from fam_det.core import KnowledgeReview
from tests.analysis.small_study import Studio, make_studio

MakeRun = Callable[..., Path]
Edit = dict[str, Any]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A finished classifier's run: three evaluations, two stages of FAM if it is distilled.

    ``edit`` are full config keys with other values; ``top1`` the accuracy at each evaluation.
    """

    def make(
        name: str, seed: int = 1, top1: tuple[float, ...] = (50.0, 71.0, 70.0), **edit: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = classifier_config(seed, str(folder))
        for key, value in edit.items():
            set_key(config, key.replace("__", "."), value)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        distilled = bool(config["MODEL"]["DISTILLER"]["NAME"])
        (folder / "metrics.json").write_text(metrics(top1, distilled))
        torch.save({"model": weights(distilled)}, folder / "model_final.pth")
        return folder

    return make


@pytest.fixture
def make_detector(make_run: MakeRun, tmp_path: Path) -> MakeRun:
    """A finished detector's run of 30 AP or ``ap``; ``data`` is the content of its annotations.

    Its data sets are NAME_train and NAME_val, in files of those names.
    """

    def make(name: str, *, data: str = "a", ap: float = 30.0, teacher: str = "") -> Path:
        files = {key: tmp_path / f"{name}_{key}.json" for key in ("train", "val")}
        for key, file in files.items():
            file.write_text(f"{key} of {data}")
        model: dict[str, Any] = {
            "META_ARCHITECTURE": "DistilledDetector" if teacher else "RetinaNet",
            "STUDENT": {"META_ARCHITECTURE": "RetinaNet"},
            "TEACHER": {"CONFIG": str(tmp_path / teacher / "config.yaml"), "WEIGHTS": "auto"},
            "DISTILLER": {"NAME": "PKDDistiller", "LOSS_WEIGHT": 1.0},
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
            "RESNETS": {"DEPTH": 18},
        }
        sets = {
            "COCO": [[f"{name}_{key}", str(file), "images"] for key, file in files.items()],
            "TRAIN": [f"{name}_train"],
            "TEST": [f"{name}_val"],
        }
        folder = make_run(name, DATASETS=sets, MODEL=model)
        (folder / "metrics.json").write_text(f'{{"iteration": 100, "bbox/AP": {ap}}}\n')
        return folder

    return make


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    *nodes, leaf = key.split(".")
    for node in nodes:
        config = config.setdefault(node, {})
    config[leaf] = value


def metrics(top1: tuple[float, ...], distilled: bool) -> str:
    """Iterations 20, 60 and 100 of 100, half a second each."""
    lines = []
    for step, (iteration, value) in enumerate(zip((19, 59, 99), top1, strict=False)):
        line = {"iteration": iteration, "time": 0.5, "total_loss": 3.0 - step}
        for stage in ("stage1", "pooled") if distilled else ():
            line[f"distiller/gamma_global_{stage}"] = 0.5 + step
            line[f"distiller/gamma_local_{stage}"] = 0.25
        # after the last iteration Detectron2 writes its evaluation to a line of its own
        lines += [line, {"iteration": min(iteration + 1, 100), "accuracy/top1": value}]
    return "".join(json.dumps(line) + "\n" for line in lines)


def classifier_config(seed: int, output: str) -> dict[str, Any]:
    fam = {"FILTER": "dense", "GRID": 8, "HIGH_PASS": "ideal", "CUTOFF": 0.5, "ORDER": 2}
    return {
        "SEED": seed,
        "OUTPUT_DIR": output,
        "DATASETS": {"NAME": "cifar100", "ROOT": "datasets"},
        "MODEL": {
            "STUDENT": {"NAME": "resnet8x4"},
            "TEACHER": {"NAME": "resnet32x4", "WEIGHTS": "teacher.pth"},
            "DISTILLER": {
                "NAME": "KnowledgeReviewDistiller",
                "FUSION": "cross_attention",
                "TRANSFORM": "fam",
                "LOSS_WEIGHT": 20.0,
                "FAM": fam,
            },
        },
        # 100 iterations of 120,000 images: the 12,000,000 of the published schedule
        "SOLVER": {"MAX_ITER": 100, "IMS_PER_BATCH": 120_000},
    }


def weights(distilled: bool) -> dict[str, torch.Tensor]:
    """A student of 3 * 2 + 2 parameters, and the distiller's."""
    student = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    state = dict(student.state_dict())
    if distilled:
        review = KnowledgeReview([2, 3], [2, 3], [4, 3], sizes=[8, 1])
        state |= {f"distiller.transform.{k}": v for k, v in review.state_dict().items()}
    return state


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    """A study of eight trainings."""
    return make_studio(tmp_path)
