"""Pictures: detections on an image, and feature maps."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from torch import Tensor

from fam_det.analysis.report.style import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from fam_det.analysis.visualize.examples import Example

from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer

CLASSES = (VERMILION, SKY, GREEN, ORANGE, PURPLE, BLUE)  # in turn
FONT = 0.028  # points a pixel of an image's width
MAP_WIDTH = 320  # pixels at least, about
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


def draw_detections(example: Example, shown: Instances) -> NDArray[np.uint8]:
    """The image with detections, uint8 (H, W, 3) in RGB."""
    return _draw(
        example,
        shown.pred_classes.tolist(),
        shown.pred_boxes.tensor.numpy(),
        shown.pred_masks.numpy() if shown.has("pred_masks") else [],
        [f" {score:.0%}" for score in shown.scores.tolist()],
    )


def class_colour(index: int) -> str:
    """The colour of a class, the same in every picture."""
    return CLASSES[index % len(CLASSES)]


def _draw(
    example: Example, classes: Sequence[int], boxes: Any, masks: Any, scores: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """Boxes, masks where every object has one, and names; a colour a class."""
    names = example.metadata.get("thing_classes") or [
        str(c) for c in range(max(classes or [0]) + 1)
    ]
    pairs = zip_longest(classes, scores, fillvalue="")
    visualizer = Visualizer(example.image, example.metadata)
    # Its own is for a picture that fills a screen; these are a quarter as wide.
    visualizer._default_font_size = FONT * example.image.shape[1]
    boxes, colours = np.asarray(boxes, dtype=float).reshape(-1, 4), map(class_colour, classes)
    for box, colour in zip(boxes, colours, strict=True):  # below the names, and not half through
        visualizer.draw_box(box, alpha=1.0, edge_color=colour)
    drawn = visualizer.overlay_instances(
        boxes=boxes,
        labels=[f"{names[int(c)]}{score}" for c, score in pairs],
        masks=masks if len(masks) and all(mask is not None for mask in masks) else None,
        assigned_colors=[to_rgb(class_colour(c)) for c in classes],
    )
    return np.asarray(drawn.get_image())


def energy(features: Tensor) -> Tensor:
    """Root mean square over the channels: (C, h, w) -> (h, w)."""
    return features.square().mean(0).sqrt()


def top_of(plane: Tensor) -> float:
    """The value that the brightest colour stands for."""
    return max(float(plane.quantile(TOP)), 1e-12)


def draw_plane(plane: Tensor) -> NDArray[np.uint8]:
    """A map (h, w) in colours from 0 to its top, a square a cell: uint8 RGB."""
    top = top_of(plane)
    colours = colormaps["viridis"]((plane / top).clamp(max=1.0).numpy(), bytes=True)[..., :3]
    cell = max(1, MAP_WIDTH // plane.shape[1])
    picture: NDArray[np.uint8] = colours.repeat(cell, axis=0).repeat(cell, axis=1)
    return picture
