"""Draws a classifier's maps before and after the transform, and its teacher's.

Legend: N images, H and W map size.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure  # not pyplot: that would look for a display
from torch import Tensor

from classification.build import build_classifier
from classification.config import get_cfg
from classification.data import build_test_loader
from classification.distillers.fam import StageDistiller
from classification.models import stage_features
from fam_det.export.source import MAX_REASON
from fam_det.files import one_line
from fam_det.files.checkpoint_file import read_torch
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode

IMAGES = 3  # the first test images, not the prettiest
COLUMNS = ("student", "after the transform", "teacher")
Stages = dict[str, list[Tensor]]  # by name the maps of each column, (N, H, W), mean over channels


def plot_stage_maps(config: Path, checkpoint: Path, title: str, file: Path) -> bool:
    """Draws the maps of the first test images; returns False for a method without a transform.

    The data set and the teacher of the run's ``config.yaml`` must still exist.

    Raises:
        ValueError: a data set, teacher or checkpoint that is missing or does not fit.
    """
    cfg = get_cfg()
    merge_config(cfg, config)
    if cfg.MODEL.DISTILLER.NAME not in ("KnowledgeReviewDistiller", "LayerToLayerDistiller"):
        return False
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.STUDENT.WEIGHTS = ""  # the checkpoint has the student's
    cfg.DATASETS.DOWNLOAD = False
    cfg.DATALOADER.NUM_WORKERS = 0
    images, stages = read_maps(cfg, checkpoint)
    draw_maps(images, stages, title, file)
    return True


@torch.no_grad()
def read_maps(cfg: CfgNode, checkpoint: Path) -> tuple[Tensor, Stages]:
    """Returns the first test images, (N, H, W, 3) in [0, 1], and the maps of stages beyond 1x1."""
    try:
        model = build_classifier(cfg).eval()
        model.load_state_dict(read_torch(checkpoint)["model"])
        images = next(iter(build_test_loader(cfg))).images[:IMAGES]
    except (OSError, RuntimeError, KeyError, ImportError) as error:
        raise ValueError(one_line(error, MAX_REASON)) from error
    distiller: Any = model.distiller
    assert isinstance(distiller, StageDistiller) and model.teacher is not None
    student = distiller.pairs.student.maps(stage_features(model.student, images))
    features = stage_features(model.teacher, model.teacher_images(images))
    teacher = distiller.pairs.teacher.maps(features)
    maps = zip(student, distiller.transform(student), teacher, strict=True)
    stages = {
        name: [x.mean(1) for x in of_stage]
        for name, of_stage in zip(distiller.pairs.names, maps, strict=True)
        if of_stage[-1].shape[2:] != (1, 1)
    }
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    )
    return (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1), stages


def draw_maps(images: Tensor, stages: Stages, title: str, file: Path) -> None:
    """Draws a row per image, three columns per stage; compared maps share a colour scale."""
    count, columns = len(images), 1 + len(COLUMNS) * len(stages)
    figure = Figure(figsize=(1.35 * columns, 1.45 * count + 1.0), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False)
    for axes, image in zip(grid[:, 0], images, strict=True):
        axes.imshow(image.numpy(), interpolation="nearest")
    grid[0, 0].set_title("image", fontsize=9)
    for (name, maps), panel in zip(
        stages.items(), np.split(grid[:, 1:], len(stages), axis=1), strict=True
    ):
        height, width = maps[-1].shape[1:]
        for axes, column in zip(panel[0], COLUMNS, strict=True):
            axes.set_title(f"{name}, {height}x{width}\n{column}", fontsize=9)
        for row, before, after, target in zip(panel, *maps, strict=True):
            pair = torch.stack([after, target])
            limits = {"vmin": float(pair.min()), "vmax": float(pair.max())}
            row[0].imshow(before.numpy(), cmap="viridis")
            row[1].imshow(after.numpy(), cmap="viridis", **limits)
            row[2].imshow(target.numpy(), cmap="viridis", **limits)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
    figure.suptitle(
        f"Maps of test images, mean over channels: {title}\n"
        "(the transformed map and the teacher's share a colour scale, the student's has its own)",
        fontsize=11,
    )
    figure.savefig(file, dpi=120)
