"""A data set in COCO format in a few lines and a picture, for ``python -m fam_det.doctor --data``.

N: objects, A: anchors of a cell. Sizes are width, height.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fam_det.analysis.images import Example, draw_truth
from fam_det.config import default_config
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
MAX_UNFIT = 0.05  # share of boxes that no anchor fits, above which others are proposed
PICTURES = 3  # a side
TILE = (480, 360)  # pixels of an image in the picture, at most


class Row(NamedTuple):
    """A line of the report."""

    name: str
    found: str
    advice: str = ""


def describe(content: dict[str, Any]) -> Iterator[Row]:
    """Yields what an annotation file that ``check_annotations`` admits holds."""
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
    found = np.quantile(values, list(QUANTILES.values()))
    pairs = zip(QUANTILES, found, strict=True)
    return ", ".join(f"{name} {value:.4g}" for name, value in pairs)


def _sides(sizes: Array) -> Array:
    """Returns the sides of squares of the areas of N sizes."""
    sides: Array = np.sqrt(sizes.clip(0).prod(1))
    return sides


def read_anchor_config(file: str) -> CfgNode:
    """Reads a config in YAML, as ``tools/train_net.py`` does but for its data."""
    cfg = default_config()
    merge_config(cfg, file, [])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def describe_anchors(content: dict[str, Any], cfg: CfgNode) -> Iterator[Row]:
    """Yields how boxes, resized as in an evaluation, fit the anchors, and which would fit better.

    An anchor does not fit that the config counts as background wherever it lies: by the lower one
    of ``IOU_THRESHOLDS``.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "DistilledDetector":
        architecture = cfg.MODEL.STUDENT.META_ARCHITECTURE
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
    found = f"{unfit:.1%} of the boxes fit none (IoU under {lowest} wherever it lies)"
    other = propose(boxes, cfg, len(levels))
    rest = (fit(boxes, other, len(levels))[0] < lowest).mean()
    advice = ""
    if unfit > MAX_UNFIT and rest < unfit / 2:
        node = other.MODEL.ANCHOR_GENERATOR
        advice = f'set MODEL.ANCHOR_GENERATOR.SIZES "{node.SIZES}" '
        advice += f'MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS "{node.ASPECT_RATIOS}": {rest:.1%}'
    yield Row("anchors", found, advice)


def resized(objects: Objects, cfg: CfgNode) -> Array:
    """Returns width and height of boxes that are not empty, (N, 2), as an evaluation resizes."""
    is_box = (objects.boxes[:, 2:] > 0).all(1) & ~objects.is_crowd
    boxes, sizes = objects.boxes[is_box, 2:], objects.sizes[is_box]
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if not shortest:
        return boxes
    known, index = np.unique(sizes, axis=0, return_inverse=True)
    new = [
        ResizeShortestEdge.get_output_shape(int(height), int(width), shortest, longest)[::-1]
        for width, height in known
    ]
    scaled: Array = boxes * (np.array(new).reshape(-1, 2) / known)[index.reshape(-1)]
    return scaled


def fit(boxes: Array, cfg: CfgNode, levels: int) -> tuple[Array, Array]:
    """Returns the IoU (N,) of boxes with their nearest anchor laid over them, and its level."""
    best, level = np.zeros(len(boxes)), np.zeros(len(boxes), int)
    cells = build_anchor_generator(cfg, [ShapeSpec(stride=1)] * levels).cell_anchors
    for i, anchors in enumerate(cells):
        for width, height in (anchors[:, 2:] - anchors[:, :2]).tolist():
            common = np.minimum(boxes[:, 0], width) * np.minimum(boxes[:, 1], height)
            iou = common / (boxes.prod(1) + width * height - common)
            level[iou > best] = i
            best = np.maximum(best, iou)
    return best, level


def propose(boxes: Array, cfg: CfgNode, levels: int) -> CfgNode:
    """Returns a config with as many anchors, their sizes and ratios spread over those of boxes."""
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
    """Draws nine random images with their boxes; returns how many could be read.

    The same nine each time. Boxes are drawn as the file has them.
    """
    names = class_names(content["categories"])
    places = {
        x["id"]: i for i, x in enumerate(sorted(content["categories"], key=lambda x: x["id"]))
    }
    order = np.random.default_rng(0).permutation(
        sorted({x["image_id"] for x in content["annotations"]})
    )
    chosen = order[: PICTURES**2].tolist()
    images = {x["id"]: x["file_name"] for x in content["images"] if x["id"] in set(chosen)}
    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in chosen}
    for x in content["annotations"]:
        if x["image_id"] in objects:
            box = {"bbox": x["bbox"], "category_id": places[x["category_id"]]}
            objects[x["image_id"]].append(box)
    tiles = [
        tile
        for number in chosen
        if (tile := _tile(folder / images[number], objects[number], names)) is not None
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
    shown = Example(file.name, resize.apply_image(image), annotations, {}, names)
    return Image.fromarray(draw_truth(shown))
