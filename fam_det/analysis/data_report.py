"""Reports on a data set in COCO format, for ``python -m fam_det.doctor --data``.

Legend: N objects. Sizes are (width, height).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fam_det.analysis.images import Example, draw_truth
from fam_det.config import default_config, detector_architecture
from fam_det.data.audit import Objects, class_names, read_objects, read_size
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.structures import BoxMode

Array = NDArray[Any]

QUANTILES = {"smallest": 0, "tenth": 0.1, "median": 0.5, "nine tenths": 0.9, "largest": 1}
MAX_UNFIT = 0.05  # share of boxes without a fitting anchor above which other anchors are proposed
PICTURES = 3  # images per row and per column
TILE = (480, 360)  # maximal size of an image in the picture, in pixels


class Row(NamedTuple):
    """A line of the report."""

    name: str
    found: str
    advice: str = ""


def describe(content: dict[str, Any]) -> Iterator[Row]:
    """Yields the contents of a valid annotation file."""
    objects, images = read_objects(content), content["images"]
    names = class_names(content["categories"])
    empty = len(images) - len(np.unique(objects.images))
    yield Row("images", f"{len(images):,}, {empty:,} of them without objects")
    sizes = np.array([(x["width"], x["height"]) for x in images], float).reshape(-1, 2)
    yield Row("widths", _quantiles(sizes[:, 0]))
    yield Row("heights", _quantiles(sizes[:, 1]))
    counts = np.bincount(objects.classes, minlength=len(names))
    by_class = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
    crowds = f", {objects.is_crowd.sum():,} of them crowds" if objects.is_crowd.any() else ""
    yield Row("objects", f"{len(objects.boxes):,}{crowds}: {by_class}")
    yield Row("box sizes", f"{_quantiles(_sides(objects.boxes[:, 2:]))} (root of the area)")


def _quantiles(values: Array) -> str:
    if not len(values):
        return "none"
    pairs = zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True)
    return ", ".join(f"{name} {value:.4g}" for name, value in pairs)


def _sides(sizes: Array) -> Array:
    """Returns the square roots (N,) of the areas of N sizes."""
    sides: Array = np.sqrt(sizes.clip(0).prod(1))
    return sides


def read_anchor_config(file: str) -> CfgNode:
    """Reads a YAML config as ``tools/train_net.py``, without its data sets."""
    cfg = default_config()
    merge_config(cfg, file, [])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def describe_anchors(content: dict[str, Any], cfg: CfgNode) -> Iterator[Row]:
    """Yields how boxes, resized as in an evaluation, fit the anchors, and better anchors.

    An anchor fits a box if its IoU, centred on the box, reaches the lower one of
    ``IOU_THRESHOLDS``: below it is background wherever it lies.
    """
    architecture = detector_architecture(cfg)
    if architecture == "FCOS":
        yield Row("anchors", "FCOS has none")
        return
    node = cfg.MODEL.RETINANET if architecture == "RetinaNet" else cfg.MODEL.RPN
    levels, lowest = list(node.IN_FEATURES), node.IOU_THRESHOLDS[0]
    boxes = resized(read_objects(content), cfg)
    if not len(boxes):
        return
    best, level = fit(boxes, cfg, len(levels))
    shares = np.bincount(level, minlength=len(levels)) / len(level)
    by_level = ", ".join(f"{x} {share:.0%}" for x, share in zip(levels, shares, strict=True))
    yield Row("levels", f"boxes by their nearest anchor: {by_level}")
    unfit = (best < lowest).mean()
    proposed = propose(boxes, cfg, len(levels))
    still_unfit = (fit(boxes, proposed, len(levels))[0] < lowest).mean()
    advice = ""
    if unfit > MAX_UNFIT and still_unfit < unfit / 2:
        node = proposed.MODEL.ANCHOR_GENERATOR
        advice = f'set MODEL.ANCHOR_GENERATOR.SIZES "{node.SIZES}" '
        advice += f'MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS "{node.ASPECT_RATIOS}": {still_unfit:.1%}'
    text = f"{unfit:.1%} of the boxes fit none (IoU under {lowest} wherever it lies)"
    yield Row("anchors", text, advice)


def resized(objects: Objects, cfg: CfgNode) -> Array:
    """Returns width and height (N, 2) of non-empty boxes, resized as in an evaluation."""
    is_box = (objects.boxes[:, 2:] > 0).all(1) & ~objects.is_crowd
    boxes, sizes = objects.boxes[is_box, 2:], objects.sizes[is_box]
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if not shortest:
        return boxes
    old, index = np.unique(sizes, axis=0, return_inverse=True)
    new = [
        ResizeShortestEdge.get_output_shape(int(height), int(width), shortest, longest)[::-1]
        for width, height in old
    ]
    scaled: Array = boxes * (np.array(new).reshape(-1, 2) / old)[index.reshape(-1)]
    return scaled


def fit(boxes: Array, cfg: CfgNode, levels: int) -> tuple[Array, Array]:
    """Returns the IoU (N,) of boxes with the best anchor centred on them, and its level (N,)."""
    best, level = np.zeros(len(boxes)), np.zeros(len(boxes), int)
    cells = build_anchor_generator(cfg, [ShapeSpec(stride=1)] * levels).cell_anchors
    for i, anchors in enumerate(cells):
        for width, height in (anchors[:, 2:] - anchors[:, :2]).tolist():
            intersection = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
            iou = intersection / (boxes.prod(1) + width * height - intersection)
            level[iou > best] = i
            best = np.maximum(best, iou)
    return best, level


def propose(boxes: Array, cfg: CfgNode, levels: int) -> CfgNode:
    """Returns a config with as many anchors, whose sizes and ratios cover those of the boxes."""
    cfg = cfg.clone()
    node = cfg.MODEL.ANCHOR_GENERATOR
    count, ratios = levels * len(node.SIZES[0]), len(node.ASPECT_RATIOS[0])
    low, high = np.quantile(_sides(boxes), (0.05, 0.95))
    sizes = np.geomspace(low, high, count).round(1).reshape(levels, -1)
    spread = np.quantile(
        boxes[:, 1] / boxes[:, 0], np.linspace(0.05, 0.95, ratios) if ratios > 1 else [0.5]
    )
    node.SIZES, node.ASPECT_RATIOS = sizes.tolist(), [spread.round(2).tolist()]
    return cfg


def save_picture(content: dict[str, Any], folder: Path, file: Path) -> int:
    """Draws nine random images, always the same, with their boxes; returns how many were read."""
    names = class_names(content["categories"])
    indices = {
        x["id"]: i for i, x in enumerate(sorted(content["categories"], key=lambda x: x["id"]))
    }
    order = np.random.default_rng(0).permutation(
        sorted({x["image_id"] for x in content["annotations"]})
    )
    image_ids = order[: PICTURES**2].tolist()
    files = {x["id"]: x["file_name"] for x in content["images"] if x["id"] in set(image_ids)}
    objects: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for x in content["annotations"]:
        if x["image_id"] in objects:
            box = {"bbox": x["bbox"], "category_id": indices[x["category_id"]]}
            objects[x["image_id"]].append(box)
    tiles = [
        tile
        for image_id in image_ids
        if (tile := _tile(folder / files[image_id], objects[image_id], names)) is not None
    ]
    sheet = Image.new("RGB", (PICTURES * TILE[0], PICTURES * TILE[1]), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % PICTURES * TILE[0], i // PICTURES * TILE[1]))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    return len(tiles)


def _tile(
    file: Path, objects: Sequence[dict[str, Any]], names: Sequence[str]
) -> Image.Image | None:
    try:
        read_size(file)  # fails for one that is not safe to decode
        image = read_image(str(file), format="RGB")
    except Exception:  # a broken file makes Pillow raise errors of many types
        return None
    height, width = image.shape[:2]
    scale = min(TILE[0] / width, TILE[1] / height)
    size = max(1, int(height * scale)), max(1, int(width * scale))
    resize = ResizeTransform(height, width, *size)
    annotations = [
        {**x, "bbox": [scale * v for v in x["bbox"]], "bbox_mode": BoxMode.XYWH_ABS}
        for x in objects
    ]
    example = Example(file.name, resize.apply_image(image), annotations, {}, names)
    return Image.fromarray(draw_truth(example))
