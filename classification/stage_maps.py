"""The student's maps before and after the transform, beside the teacher's, as a picture."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from classification.build import build_classifier
from classification.config import get_cfg
from classification.data import build_test_loader
from classification.distillers.frequency import StageDistiller
from classification.models import stage_features

COLUMNS = ("student", "transformed", "teacher")


def plot_stage_maps(config: Path, weights: dict[str, Tensor], image: int, file: Path) -> bool:
    """Draw the maps of one test image, the mean over their channels; False without a transform.

    Args:
        config: the run's ``config.yaml``; its data set and its teacher must still be there.
        weights: of the run's checkpoint.
        image: position in the first batch of test images.
        file: PNG to write.

    Raises:
        ValueError: a data set or teacher that is gone.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    cfg.MODEL.DEVICE = "cpu"
    model = build_classifier(cfg).eval()
    if model.teacher is None or not isinstance(model.distiller, StageDistiller):
        return False
    model.load_state_dict(weights)
    images = next(iter(build_test_loader(cfg))).images[image : image + 1]
    with torch.no_grad():
        pairs = model.distiller.pairs
        before = pairs.student_maps(stage_features(model.student, images))
        after = model.distiller.transform(before)
        target = pairs.teacher_maps(stage_features(model.teacher, images))
    rows = [
        (name, *(maps[i][0].mean(0) for maps in (before, after, target)))
        for i, name in enumerate(pairs.names)
        if name != "pooled"
    ]
    draw(rows, file)
    return True


def draw(rows: list[Any], file: Path) -> None:
    """A row a stage: its name and three maps (H, W); after and teacher share a colour scale."""
    figure, panels = plt.subplots(
        len(rows), len(COLUMNS), figsize=(7, 2.4 * len(rows)), squeeze=False
    )
    for line, (name, before, after, target) in zip(panels, rows, strict=True):
        low = float(min(after.min(), target.min()))
        high = float(max(after.max(), target.max()))
        line[0].imshow(before, cmap="viridis")
        for axes, plane in zip(line[1:], (after, target), strict=True):
            axes.imshow(plane, cmap="viridis", vmin=low, vmax=high)
        line[0].set_ylabel(name)
    for axes, title in zip(panels[0], COLUMNS, strict=True):
        axes.set_title(title)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    figure.suptitle("Maps of a test image, mean over channels")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
