"""Reads test images with their ground truth, and draws boxes, masks and feature maps."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from torch import Tensor

from fam_det.analysis.plots import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from fam_det.data.two_sizes import in_two_sizes, input_scale

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.detection_utils import read_image, transform_instance_annotations
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import Visualizer

MIN_WIDTH = 640  # of a picture in pixels: boxes need room for their names
CLASS_COLOURS = (VERMILION, SKY, GREEN, ORANGE, PURPLE, BLUE)
FONT = 0.028  # points per pixel of a picture's width, for one that fills a quarter of a screen
TOP_QUANTILE = 0.99  # end of a map's colour scale: the maximum would make most cells dark


@dataclass(frozen=True)
class Example:
    """A test image."""

    name: str  # of the file
    image: NDArray[np.uint8]  # (H, W, 3) in RGB, small images enlarged
    annotations: list[dict[str, Any]]  # of its dataset dict, in pixels of the image
    inputs: dict[str, Any]  # of a detector, resized, whose output is in pixels of the image
    class_names: Sequence[str]


def choose_examples(cfg: CfgNode, names: Sequence[str], count: int) -> list[Example]:
    """Reads images of the first test set by id or file name, or those with the most objects.

    Raises:
        ValueError: there is no test set, or it lacks an image.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST: is empty; expected a data set to take images from")
    data_set = cfg.DATASETS.TEST[0]
    dataset_dicts: list[dict[str, Any]] = DatasetCatalog.get(data_set)
    if names:
        chosen = [_find(dataset_dicts, name, data_set) for name in names]
    else:
        chosen = sorted(dataset_dicts, key=lambda x: -len(x.get("annotations", [])))[:count]
    mapper = DatasetMapper(cfg, is_train=False)
    two_sizes = in_two_sizes(mapper, input_scale(cfg))
    hidden = set() if cfg.MODEL.MASK_ON else {"segmentation"}  # the detector predicts no masks
    class_names = MetadataCatalog.get(data_set).get("thing_classes") or []
    return [_example(x, (two_sizes, mapper), class_names, hidden) for x in chosen]


def _find(dataset_dicts: Sequence[dict[str, Any]], name: str, data_set: str) -> dict[str, Any]:
    for x in dataset_dicts:
        if name in (str(x["image_id"]), Path(x["file_name"]).name, x["file_name"]):
            return x
    first = dataset_dicts[0]
    raise ValueError(
        f"--image: {data_set} has no {name!r}; expected an id such as {first['image_id']} or a "
        f"file name such as {Path(first['file_name']).name}"
    )


def _example(
    dataset_dict: dict[str, Any],
    mappers: Sequence[Any],
    class_names: Sequence[str],
    hidden: set[str],
) -> Example:
    """Reads an image without hidden annotation keys; later mappers override earlier ones."""
    image = read_image(dataset_dict["file_name"], format="RGB")
    height, width = image.shape[:2]
    factor = -(-MIN_WIDTH // width)
    size = (factor * height, factor * width)
    enlarge = ResizeTransform(height, width, *size)
    annotations = [
        transform_instance_annotations(
            {k: copy.deepcopy(v) for k, v in annotation.items() if k not in hidden}, enlarge, size
        )
        for annotation in dataset_dict.get("annotations", [])
    ]
    inputs: dict[str, Any] = {}
    for mapper in mappers:
        inputs |= mapper(dataset_dict)
    return Example(
        Path(dataset_dict["file_name"]).name,
        enlarge.apply_image(image),
        annotations,
        inputs | {"height": size[0], "width": size[1]},
        class_names,
    )


def draw_truth(example: Example) -> NDArray[np.uint8]:
    """Draws the ground truth on the image: uint8 (H, W, 3) in RGB."""
    annotations = example.annotations
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    classes = [annotation["category_id"] for annotation in annotations]
    masks = [annotation.get("segmentation") for annotation in annotations]
    font_size = FONT * example.image.shape[1]
    return _draw(example.image, example.class_names, font_size, classes, boxes, masks)


def draw_detections(
    image: NDArray[np.uint8],
    class_names: Sequence[str],
    detections: Instances,
    font_size: float | None = None,
) -> NDArray[np.uint8]:
    """Draws detections on a copy of an image, uint8 (H, W, 3) in RGB.

    ``font_size`` is in points; by default Detectron2's, for a picture that fills a screen.
    """
    return _draw(
        image,
        class_names,
        font_size,
        detections.pred_classes.tolist(),
        detections.pred_boxes.tensor.numpy(),
        detections.pred_masks.numpy() if detections.has("pred_masks") else [],
        [f" {score:.0%}" for score in detections.scores.tolist()],
    )


def class_colour(index: int) -> str:
    """Returns the colour of a class, the same in every picture."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def _draw(
    image: NDArray[np.uint8],
    class_names: Sequence[str],
    font_size: float | None,
    classes: Sequence[int],
    boxes: Any,
    masks: Any,
    scores: Sequence[str] = (),
) -> NDArray[np.uint8]:
    """Draws boxes, names and, if every object has one, masks in the colours of the classes."""
    names = class_names or range(max(classes or [0]) + 1)
    labels = [f"{names[int(c)]}{s}" for c, s in zip_longest(classes, scores, fillvalue="")]
    visualizer = Visualizer(image)
    visualizer._default_font_size = font_size or visualizer._default_font_size
    boxes, colours = np.asarray(boxes, dtype=float).reshape(-1, 4), map(class_colour, classes)
    for box, colour in zip(boxes, colours, strict=True):  # the visualizer's own are transparent
        visualizer.draw_box(box, alpha=1.0, edge_color=colour)
    drawn = visualizer.overlay_instances(
        boxes=boxes,
        labels=labels,
        masks=masks if len(masks) and all(mask is not None for mask in masks) else None,
        assigned_colors=[to_rgb(class_colour(c)) for c in classes],
    )
    return np.asarray(drawn.get_image())


def colour_limit(plane: Tensor) -> float:
    """Returns the value that gets the brightest colour."""
    return max(float(plane.quantile(TOP_QUANTILE)), 1e-12)


def draw_plane(plane: Tensor) -> NDArray[np.uint8]:
    """Draws a map (h, w) in colours from 0 to its limit, a pixel per cell: uint8 RGB."""
    scaled = (plane / colour_limit(plane)).clamp(max=1.0)
    picture: NDArray[np.uint8] = colormaps["viridis"](scaled.numpy(), bytes=True)[..., :3]
    return picture
