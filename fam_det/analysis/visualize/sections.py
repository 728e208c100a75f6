"""The parts of the page for a run: detections, feature maps, filters and gammas."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fam_det.analysis.report.attention_plots import edge_name, plot_each_filter, plot_each_gamma
from fam_det.analysis.report.rows import Row
from fam_det.analysis.visualize.detectors import Detector, transformed_maps
from fam_det.analysis.visualize.examples import Example
from fam_det.analysis.visualize.matches import LEAST_IOU, match
from fam_det.analysis.visualize.page import MapRow, Maps, Picture, Pictures, Section
from fam_det.analysis.visualize.pictures import (
    class_colour,
    draw_detections,
    draw_plane,
    draw_truth,
    energy,
    top_of,
)

from detectron2.structures import Instances

TRANSFORMED = "its maps after the transform"
MAPS = (
    "The maps of the feature pyramid, finest level first, each cell the root mean square over its "
    "channels. Each map has a scale of its own, from 0 to the number below it: a hundredth of its "
    "cells is above."
)
FILTERS = (
    "|K|, averaged over the channels: what the global branch lets through at each frequency, the "
    "mean of the map in the middle, the finest detail at the borders. One that is flat to a "
    "thousandth has one colour."
)
GAMMAS = "What the two branches of each level are multiplied by, over the training."


def image_sections(
    detectors: Sequence[Detector], examples: Sequence[Example], threshold: float, output: Path
) -> list[Section]:
    """Detections and maps of every image; the pictures go to ``output``."""
    detections, maps = [], []
    for number, example in enumerate(examples, start=1):
        file = output / f"{number}_truth.png"
        note = f"{len(example.record['annotations'])} in the annotations"
        pictures = [save_image(draw_truth(example), file, "ground truth", note)]
        planes: dict[str, Mapping[str, Tensor]] = {}
        for detector in detectors:
            seen = detector.look_at(example.inputs, levels_of(detectors))
            shown = seen.instances[seen.instances.scores >= threshold]
            file = output / f"{number}_{file_stem(detector.name)}.png"
            note = count_found(example, shown)
            pictures.append(save_image(draw_detections(example, shown), file, detector.name, note))
            planes[detector.name] = seen.maps
            if after := transformed_maps(detector, seen.maps):
                planes[TRANSFORMED] = after
        detections.append(Pictures(example.name, pictures))
        maps.append(draw_maps(example.name, planes, output, str(number)))
    note = (
        f"Boxes with a score of {threshold:g} or more. An object is found by a box of its class "
        f"that covers it with an IoU of {LEAST_IOU} or more."
    )
    return [
        Section("Detections", note, detections, class_key(examples)),
        Section("Feature maps", MAPS, maps, bar="the number below a map"),
    ]


def count_found(example: Example, shown: Instances) -> str:
    """How many objects were found, in words; crowds do not count."""
    objects = [a for a in example.record["annotations"] if not a.get("iscrowd", 0)]
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float32).reshape(-1, 4)
    classes = torch.tensor([a["category_id"] for a in objects])
    return str(match(torch.from_numpy(boxes), classes, shown))


def class_key(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """Colours and names of the classes in these images."""
    names = examples[0].metadata.get("thing_classes") or []
    present = {a["category_id"] for example in examples for a in example.record["annotations"]}
    return [(class_colour(i), names[i]) for i in sorted(present) if i < len(names)]


def draw_maps(
    heading: str, maps: Mapping[str, Mapping[str, Tensor]], output: Path, stem: str
) -> Maps:
    """Maps by column, then by level; the first column has every level."""
    rows = []
    for level, first in next(iter(maps.values())).items():
        planes = {name: energy(own[level]) for name, own in maps.items() if level in own}
        pictures = {
            name: save_image(
                draw_plane(plane),
                output / f"{stem}_{level}_{file_stem(name)}.png",
                f"{level} of {name}",
                f"{top_of(plane):.3g}",
            )
            for name, plane in planes.items()
        }
        size = f"{level}, {first.shape[-2]} x {first.shape[-1]} cells"
        rows.append(MapRow(size, [pictures.get(name) for name in maps]))
    return Maps(heading, list(maps), rows)


def training_sections(row: Row, output: Path) -> list[Section]:
    """Filters and gammas, where the run has some."""
    sections = []
    if filters := [Picture(file, name) for name, file in plot_each_filter(row, output)]:
        edge = f" The pink line is the {edge_name(row)}." if edge_name(row) else ""
        sections.append(Section("Filters", FILTERS + edge, [Pictures("", filters, columns=3)]))
    if gammas := [Picture(file, name) for name, file in plot_each_gamma(row, output)]:
        sections.append(Section("Gammas", GAMMAS, [Pictures("", gammas, columns=2)]))
    return sections


def levels_of(detectors: Sequence[Detector]) -> list[str]:
    """Names of the feature maps that every detector has, shallow to deep."""
    shapes = [detector.model.backbone.output_shape() for detector in detectors]
    shared = set.intersection(*({*shape} for shape in shapes))
    return sorted(shared, key=lambda level: shapes[0][level].stride)


def file_stem(name: str) -> str:
    """Such as ``student_alone``."""
    return name.replace(" ", "_")


def save_image(image: NDArray[np.uint8], file: Path, name: str, note: str = "") -> Picture:
    """Write an RGB array."""
    Image.fromarray(image).save(file)
    return Picture(file, name, note)
