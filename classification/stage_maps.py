"""Plot of a classifier's maps before and after the transform, beside its teacher's.

Legend: N images, S stages, H and W map size.
"""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure  # not pyplot, which looks for a display
from torch import Tensor

from classification.build import build_classifier
from classification.config import get_cfg
from classification.data import build_test_loader
from classification.distillers.fam import StageDistiller
from classification.models import stage_features
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode

IMAGES = 3  # the first test images, not the prettiest
COLUMNS = ("student", "after the transform", "teacher")


class StageMaps(NamedTuple):
    """The name of a stage, and its maps averaged over channels, (N, H, W) each."""

    name: str
    student: Tensor
    transformed: Tensor
    teacher: Tensor


def plot_stage_maps(config: Path, checkpoint: Path, title: str, file: Path) -> bool:
    """Draws the maps of the first test images; False for a method that transforms no maps.

    Args:
        config: the run's ``config.yaml``.
        checkpoint: of the run.
        title: of the plot.
        file: PNG to write.

    Raises:
        ValueError: The data set, teacher or checkpoint is gone or does not fit.
    """
    cfg = load_run_config(config)
    if cfg.MODEL.DISTILLER.NAME not in ("KnowledgeReviewDistiller", "LayerToLayerDistiller"):
        return False
    images, stages = read_maps(cfg, checkpoint)
    draw(images, stages, title, file)
    return True


def load_run_config(file: Path) -> CfgNode:
    """Loads a run's config for the CPU, without a download.

    Raises:
        ValueError: A key is of another version of the code.
    """
    cfg = get_cfg()
    merge_config(cfg, file)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.STUDENT.WEIGHTS = ""  # the checkpoint has the student's
    cfg.DATASETS.DOWNLOAD = False
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@torch.no_grad()
def read_maps(cfg: CfgNode, checkpoint: Path) -> tuple[Tensor, list[StageMaps]]:
    """Returns the first test images, (N, H, W, 3) in [0, 1], and the maps of stages above 1x1.

    Raises:
        ValueError: The data set, teacher or checkpoint is gone or does not fit.
    """
    try:
        model = build_classifier(cfg).eval()
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
        model.load_state_dict(weights)
        images = next(iter(build_test_loader(cfg))).images[:IMAGES]
    except (OSError, RuntimeError, KeyError, ImportError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(reason[0]) from error
    distiller: Any = model.distiller
    assert isinstance(distiller, StageDistiller) and model.teacher is not None
    student = distiller.pairs.student_maps(stage_features(model.student, images))
    teacher = distiller.pairs.teacher_maps(stage_features(model.teacher, images))
    transformed = distiller.transform(student)
    stages = [
        StageMaps(name, *(x.mean(1) for x in maps))
        for name, *maps in zip(distiller.pairs.names, student, transformed, teacher, strict=True)
        if maps[-1].shape[2:] != (1, 1)
    ]
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    )
    return (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1), stages


def draw(images: Tensor, stages: list[StageMaps], title: str, file: Path) -> None:
    """Draws a row per image and three columns per stage, with one scale for those compared.

    Args:
        images: (N, H, W, 3) in [0, 1].
        stages: S of them.
        title: of the plot.
        file: PNG to write.
    """
    count, per_stage = len(images), len(COLUMNS)
    figure = Figure(
        figsize=(1.35 * (1 + per_stage * len(stages)), 1.45 * count + 1.0), layout="constrained"
    )
    parts: Any = figure.subfigures(1, 1 + len(stages), width_ratios=[1] + [per_stage] * len(stages))
    for panel, image in zip(parts[0].subplots(count, 1, squeeze=False)[:, 0], images, strict=True):
        panel.imshow(image.numpy(), interpolation="nearest")
    parts[0].suptitle(" ", fontsize=11)  # the height of the stages' titles
    parts[0].axes[0].set_title("image", fontsize=9)
    for part, stage in zip(parts[1:], stages, strict=True):
        size = "x".join(str(length) for length in stage.teacher.shape[1:])
        part.suptitle(f"{stage.name}, {size}", fontsize=11)
        panels = part.subplots(count, per_stage, squeeze=False)
        for axes, name in zip(panels[0], COLUMNS, strict=True):
            axes.set_title(name, fontsize=9)
        for line, before, after, target in zip(panels, *stage[1:], strict=True):
            low, high = (float(f(torch.stack([after, target]))) for f in (torch.amin, torch.amax))
            line[0].imshow(before.numpy(), cmap="viridis")
            line[1].imshow(after.numpy(), cmap="viridis", vmin=low, vmax=high)
            line[2].imshow(target.numpy(), cmap="viridis", vmin=low, vmax=high)
    for axes in figure.findobj(lambda artist: hasattr(artist, "imshow")):
        axes.set(xticks=[], yticks=[])
    figure.suptitle(
        f"Maps of test images, mean over channels: {title}\n"
        "(the transformed map and the teacher's share a colour scale, the student's has its own)",
        fontsize=11,
    )
    figure.savefig(file, dpi=120)
