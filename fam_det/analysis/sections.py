"""The sections of a run's page: detections, feature maps, filters and gammas."""

from collections.abc import Mapping, Sequence
from pathlib import Path

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
from fam_det.analysis.run_plots import edge_name, plot_each_filter, plot_each_gamma

from detectron2.structures import Instances

TRANSFORMED = "its maps after the transform"
MAPS = (
    "The maps of the feature pyramid, finest level first, each cell the root mean square over its "
    "channels. Each map has its own scale, from 0 to the number below it: one percent of its cells "
    "is above."
)
FILTERS = (
    "|K|, averaged over the channels: the gain of the global branch at each frequency, with the "
    "mean of the map in the middle and the finest detail at the borders. A filter that is flat to "
    "a thousandth has one colour."
)
GAMMAS = "The factors of the two branches of each level over the training."


def image_sections(
    detectors: Sequence[Detector], examples: Sequence[Example], threshold: float, output: Path
) -> list[Section]:
    """Draws detections and maps of every image into ``output``."""
    shapes = [detector.model.backbone.output_shape() for detector in detectors]
    shared = set.intersection(*map(set, shapes))
    levels = sorted(shared, key=lambda level: shapes[0][level].stride)
    detections, maps = [], []
    for number, example in enumerate(examples, start=1):
        note = f"{len(example.annotations)} in the annotations"
        file = output / f"{number}_truth.png"
        images = [save_image(draw_truth(example), file, "ground truth", note)]
        columns: dict[str, Mapping[str, Tensor]] = {}
        for detector in detectors:
            instances, columns[detector.name] = detector.detect(example.inputs, levels)
            instances = instances[instances.scores >= threshold]
            file = output / f"{number}_{detector.name}.png"
            font_size = FONT * example.image.shape[1]
            image = draw_detections(example.image, example.class_names, instances, font_size)
            note = count_found(example, instances)
            images.append(save_image(image, file, detector.name, note))
            if transformed := detector.transform(columns[detector.name]):
                columns[TRANSFORMED] = transformed
        heading = small_heading(example.name)
        detections.append(heading + image_grid(images))
        maps.append(heading + draw_maps(columns, output, number))
    note = (
        f"Boxes with a score of {threshold:g} or more. An object is found by a box of its class "
        f"that covers it with an IoU of {MIN_IOU} or more."
    )
    return [
        Section("Detections", note, detections, class_key(examples)),
        Section("Feature maps", MAPS, maps, bar="the number below a map"),
    ]


def count_found(example: Example, detections: Instances) -> str:
    """Returns how many objects are found, as text; crowds do not count."""
    objects = [a for a in example.annotations if not a.get("iscrowd", 0)]
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float32).reshape(-1, 4)
    classes = torch.tensor([a["category_id"] for a in objects])
    return str(match(torch.from_numpy(boxes), classes, detections))


def class_key(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """Returns colours and names of the classes in these images."""
    names = examples[0].class_names
    present = {a["category_id"] for example in examples for a in example.annotations}
    return [(class_colour(i), names[i]) for i in sorted(present) if i < len(names)]


def draw_maps(columns: Mapping[str, Mapping[str, Tensor]], output: Path, number: int) -> str:
    """Draws an image's maps by column, then by level; the first column has every level."""
    rows = {}
    for level, first in next(iter(columns.values())).items():
        images: list[CaptionedImage | None] = []
        for name, maps in columns.items():
            if level not in maps:
                images.append(None)
                continue
            plane = maps[level].square().mean(0).sqrt()  # root mean square over the channels
            file = output / f"{number}_{level}_{name}.png"
            note = f"{colour_limit(plane):.3g}"
            images.append(save_image(draw_plane(plane), file, f"{level} of {name}", note))
        rows[f"{level}, {first.shape[-2]} x {first.shape[-1]} cells"] = images
    return map_grid(list(columns), rows)


def training_sections(row: Row, output: Path) -> list[Section]:
    """Draws filters and gammas, if the run has them."""
    sections = []
    if filters := [CaptionedImage(file, name) for name, file in plot_each_filter(row, output)]:
        edge = f" The pink line is the {edge_name(row)}." if edge_name(row) else ""
        sections.append(Section("Filters", FILTERS + edge, [image_grid(filters, columns=3)]))
    if gammas := [CaptionedImage(file, name) for name, file in plot_each_gamma(row, output)]:
        sections.append(Section("Gammas", GAMMAS, [image_grid(gammas, columns=2)]))
    return sections


def save_image(image: NDArray[np.uint8], file: Path, name: str, note: str) -> CaptionedImage:
    """Writes an RGB array to a file, without the spaces of its name."""
    file = file.with_name(file.name.replace(" ", "_"))
    Image.fromarray(image).save(file)
    return CaptionedImage(file, name, note)
