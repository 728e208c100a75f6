"""Pictures: detections on an image, and feature maps of several detectors by level."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from fam_det.report.style import save
from fam_det.visualize.examples import Example

from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer

TOP = 0.99  # share of a map's cells that the colours cover: one bright cell would hide the others


def draw_truth(example: Example) -> NDArray[np.uint8]:
    """The image with its ground truth, uint8 (H, W, 3) in RGB."""
    annotations = example.record["annotations"]
    return _draw(
        example,
        [annotation["category_id"] for annotation in annotations],
        [
            BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            for annotation in annotations
        ],
        [annotation.get("segmentation") for annotation in annotations],
    )


def draw_detections(example: Example, instances: Instances, threshold: float) -> NDArray[np.uint8]:
    """The image with the detections of at least that score, uint8 (H, W, 3) in RGB."""
    shown = instances[instances.scores >= threshold]
    return _draw(
        example,
        shown.pred_classes.tolist(),
        shown.pred_boxes.tensor.numpy(),
        shown.pred_masks.numpy() if shown.has("pred_masks") else [],
        [f" {score:.0%}" for score in shown.scores.tolist()],
    )


def _draw(
    example: Example, classes: Sequence[int], boxes: Any, masks: Any, scores: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Boxes, masks where every object has one, and names; a colour a class."""
    names = example.metadata.get("thing_classes") or [
        str(c) for c in range(max(classes or [0]) + 1)
    ]
    pairs = zip_longest(classes, scores, fillvalue="")
    visualizer = Visualizer(example.image, example.metadata)
    drawn = visualizer.overlay_instances(
        boxes=np.asarray(boxes, dtype=float).reshape(-1, 4),
        labels=[f"{names[int(c)]}{score}" for c, score in pairs],
        masks=masks if len(masks) and all(mask is not None for mask in masks) else None,
        assigned_colors=[colormaps["tab10"](int(c) % 10)[:3] for c in classes],
    )
    return np.asarray(drawn.get_image())


def energy(features: Tensor) -> Tensor:
    """Root mean square over the channels: (C, h, w) -> (h, w)."""
    return features.square().mean(0).sqrt()


def draw_maps(maps: Mapping[str, Mapping[str, Tensor]], file: Path) -> None:
    """Maps of each detector (columns) by level (rows); a level has one scale of colours.

    Args:
        maps: by column, then by level, (C, h, w); the first column has every level.
        file: a PNG to write.
    """
    columns = list(maps)
    levels = list(maps[columns[0]])
    height, width = maps[columns[0]][levels[0]].shape[-2:]
    size = (2.4 * len(columns) + 0.4, (2.4 * height / width + 0.1) * len(levels) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(levels), len(columns), squeeze=False)
    for level, row in zip(levels, panels, strict=True):
        planes = {name: energy(maps[name][level]) for name in columns if level in maps[name]}
        top = float(torch.cat([plane.flatten() for plane in planes.values()]).quantile(TOP))
        for name, axes in zip(columns, row, strict=True):
            _draw_plane(axes, planes.get(name), top)
            if level == levels[0]:
                axes.set_title(name, fontsize=10)
        row[0].set_ylabel(level)
    figure.suptitle("Feature maps: root mean square over the channels", fontsize=11)
    save(figure, file)


def _draw_plane(axes: Any, plane: Tensor | None, top: float) -> None:
    axes.set(xticks=[], yticks=[])
    if plane is None:
        axes.set_axis_off()
        return
    axes.imshow(plane.numpy(), vmin=0.0, vmax=max(top, 1e-12), cmap="viridis")


def score_line(instances: Instances, threshold: float) -> str:
    """Such as ``12 objects, best score 0.98``."""
    scores: Sequence[float] = instances.scores.tolist()
    shown = [score for score in scores if score >= threshold]
    if not scores:
        return "nothing found"
    return f"{len(shown)} objects, best score {max(scores):.2f}"
