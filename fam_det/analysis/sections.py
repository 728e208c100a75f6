"""The sections of a run's page: detections, feature maps, filters and gammas."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fam_det.analysis.detectors import MIN_IOU, Detector, match
from fam_det.analysis.images import (
    FONT,
    Example,
    class_colour,
    colour_limit,
    draw_detections,
    draw_plane,
    draw_truth,
)
from fam_det.analysis.page import CaptionedImage, Section, image_grid, map_grid, small_heading
from fam_det.analysis.rows import Row
from fam_det.analysis.run_plots import MIN_SPAN, edge_name, plot_each_filter, plot_each_gamma

from detectron2.structures import Instances

TRANSFORMED = "its maps after the transform"
MAPS = (
    "The maps of the feature pyramid, finest level first, each cell the root mean square over its "
    "channels. Each map has its own scale, from 0 to the number below it: one percent of its cells "
    "is above."
)
FILTERS = (
    "|K|, averaged over the channels: the gain of the global branch at each frequency, with the "
    "mean of the map in the middle and the finest detail at the borders. The colours reach "
    f"{MIN_SPAN:.0%} or more to either side of the mean: a filter of nearly one colour treats all "
    "frequencies nearly alike.".replace("%", " %")
)
GAMMAS = "The factor of each level's branches over the training; a branch that is off has none."


def run_detectors(
    example: Example, detectors: Sequence[Detector], levels: Sequence[str]
) -> tuple[dict[str, Instances], dict[str, dict[str, Tensor]]]:
    """Runs every detector on an image.

    Returns:
        Detections by detector, and maps (h, w) by column and level.
    """
    detections, planes = {}, {}
    for detector in detectors:
        detections[detector.name], maps = detector.detect(example.inputs, levels)
        planes[detector.name] = _root_mean_squares(maps)
        if transformed := detector.transform(maps):
            planes[TRANSFORMED] = _root_mean_squares(transformed)
    return detections, planes


def _root_mean_squares(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the root mean square over the channels of maps (C, h, w)."""
    return {level: x.square().mean(0).sqrt() for level, x in maps.items()}


def image_sections(
    detectors: Sequence[Detector], examples: Sequence[Example], threshold: float | None
) -> list[Section]:
    """Draws detections and maps of every image.

    Without a threshold each detector has one at which it finds as many boxes as there are objects.
    """
    shapes = [detector.model.backbone.output_shape() for detector in detectors]
    shared = set.intersection(*map(set, shapes))
    levels = sorted(shared, key=lambda level: shapes[0][level].stride)
    outputs = [run_detectors(example, detectors, levels) for example in examples]
    by_detector = {x.name: [instances[x.name] for instances, _ in outputs] for x in detectors}
    count = sum(len(non_crowd_annotations(example)) for example in examples)
    if threshold is None:
        thresholds = {name: lowest_score(x, count) for name, x in by_detector.items()}
        scores = ", ".join(f"{score:.2g} or more ({name})" for name, score in thresholds.items())
        note = f"The {count} boxes of each detector that score highest, as these images have"
        note = f"{note} {count} objects. Their scores: {scores}."
    else:
        thresholds = dict.fromkeys(by_detector, threshold)
        note = f"Boxes with a score of {threshold:g} or more."
    note += f" An object is found by a box of its class that covers it with an IoU of {MIN_IOU}."
    detections, maps = [], []
    for example, (instances, planes) in zip(examples, outputs, strict=True):
        heading = small_heading(example.name)
        detections.append(heading + draw_all_detections(example, instances, thresholds))
        maps.append(heading + draw_maps(planes))
    class_names = examples[0].class_names
    present = {a["category_id"] for example in examples for a in example.annotations}
    key = [(class_colour(i), class_names[i]) for i in sorted(present) if i < len(class_names)]
    return [
        Section("Detections", note, detections, key),
        Section("Feature maps", MAPS, maps, bar="the number below a map"),
    ]


def lowest_score(detections: Sequence[Instances], count: int) -> float:
    """Returns the ``count``-th highest score over all images, at least the first."""
    scores = torch.cat([x.scores for x in detections]).sort(descending=True).values
    scores = scores[: max(count, 1)]
    return float(scores[-1]) if len(scores) else 0.0


def non_crowd_annotations(example: Example) -> list[dict[str, Any]]:
    """Returns the annotations without crowds."""
    return [x for x in example.annotations if not x.get("iscrowd", 0)]


def draw_all_detections(
    example: Example, detections: Mapping[str, Instances], thresholds: Mapping[str, float]
) -> str:
    """Draws an image's ground truth and, beside it, each detector's boxes above its threshold."""
    note = f"{len(example.annotations)} annotated"
    images = [jpeg_image(draw_truth(example), "ground truth", note)]
    for name, threshold in thresholds.items():
        instances = detections[name][detections[name].scores >= threshold]
        font_size = FONT * example.image.shape[1]
        drawn = draw_detections(example.image, example.class_names, instances, font_size)
        objects = non_crowd_annotations(example)
        boxes = np.array([x["bbox"] for x in objects], dtype=np.float32).reshape(-1, 4)
        classes = torch.tensor([x["category_id"] for x in objects])
        matches = match(torch.from_numpy(boxes), classes, instances)
        images.append(jpeg_image(drawn, name, str(matches)))
    return image_grid(images)


def draw_maps(columns: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Draws an image's maps by column, then by level; the first column has every level."""
    rows = {}
    for level, first in next(iter(columns.values())).items():
        images: list[CaptionedImage | None] = []
        for name, planes in columns.items():
            if level not in planes:
                images.append(None)
                continue
            plane = planes[level]
            data, note = encode(draw_plane(plane), "png"), f"{colour_limit(plane):.3g}"
            images.append(CaptionedImage(data, f"{level} of {name}", note))
        rows[f"{level}, {first.shape[0]} x {first.shape[1]} cells"] = images
    return map_grid(list(columns), rows)


def training_sections(row: Row) -> list[Section]:
    """Draws filters and gammas, if the run has them."""
    sections = []
    if filters := [CaptionedImage(x, name, note) for name, note, x in plot_each_filter(row)]:
        edge = f" The pink line is the {edge_name(row)}." if edge_name(row) else ""
        sections.append(Section("Filters", FILTERS + edge, [image_grid(filters, columns=3)]))
    if gammas := [CaptionedImage(data, name) for name, data in plot_each_gamma(row)]:
        sections.append(Section("Gammas", GAMMAS, [image_grid(gammas, columns=2)]))
    return sections


def jpeg_image(image: NDArray[np.uint8], name: str, note: str) -> CaptionedImage:
    """Returns an RGB array as JPEG, which has a tenth of a PNG's size."""
    return CaptionedImage(encode(image, "jpeg"), name, note, "jpeg")


def encode(image: NDArray[np.uint8], kind: str) -> bytes:
    """Encodes an RGB array as "png" or "jpeg"."""
    data = io.BytesIO()
    # Without chroma subsampling, which would blur thin coloured lines.
    Image.fromarray(image).save(data, kind, quality=90, subsampling=0)
    return data.getvalue()
