"""The detectors of runs on an image: detections, feature maps, and how many objects are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.analysis.runs import Run
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling import DistilledDetector
from fam_det.modeling.hooks import captured_backbone
from fam_det.training.detection import load_config

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "distilled student"
MIN_IOU = 0.5


@dataclass(frozen=True)
class Detector:
    """A detector with its name; ``flip_channels`` if it takes RGB where inputs are BGR.

    ``classes`` are its own numbers of the data's classes, in their order; None for the same.
    """

    name: str
    model: Any
    flip_channels: bool = False
    classes: Sequence[int] | None = None

    @torch.no_grad()
    def detect(
        self, inputs: dict[str, Any], levels: Sequence[str]
    ) -> tuple[Instances, dict[str, Tensor]]:
        """Returns detections in the image's own size, and maps (C, h, w) by level, unpadded."""
        if self.name == TEACHER and "teacher_image" in inputs:
            inputs = inputs | {"image": inputs["teacher_image"]}
        if self.flip_channels:
            inputs = inputs | {"image": inputs["image"].flip(0)}
        with captured_backbone(self.model.backbone) as captured:
            instances = self.model([inputs])[0]["instances"].to("cpu")
        if self.classes is not None:
            instances = renumber(instances, torch.tensor(self.classes, dtype=torch.long))
        height, width = inputs["image"].shape[-2:]
        shapes = self.model.backbone.output_shape()
        maps = {}
        for level in levels:
            stride = shapes[level].stride
            feature_map = captured["features"][level][0].float().cpu()
            maps[level] = feature_map[:, : -(-height // stride), : -(-width // stride)]
        return instances, maps

    @torch.no_grad()
    def transform(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Applies the distiller's transform: (C_teacher, h, w) by level; empty without one."""
        distiller = getattr(self.model, "distiller", None)
        transform, levels = getattr(distiller, "transform", None), getattr(distiller, "levels", [])
        if transform is None or any(level not in maps for level in levels):
            return {}
        device = next(self.model.parameters()).device
        outputs = transform([maps[level][None].to(device) for level in levels])
        return {level: x[0].float().cpu() for level, x in zip(levels, outputs, strict=True)}


def renumber(instances: Instances, classes: Tensor) -> Instances:
    """Returns the detections of these classes (C,), by their positions there."""
    same = instances.pred_classes[:, None] == classes  # (N, C)
    found = instances[same.any(1)]
    found.pred_classes = same[same.any(1)].int().argmax(1) if len(found) else found.pred_classes
    return found


def load_run(run: Run, device: str) -> tuple[CfgNode, Any]:
    """Builds the config and the model of a run, with the weights of its checkpoint."""
    if run.task != "detection":
        raise ValueError(f"{run.folder}: the run of a classifier; see tools/report.py for its maps")
    checkpoint = find_checkpoint(run.folder)
    if checkpoint is None:
        raise ValueError(f"{run.folder}: has no checkpoint yet, such as model_final.pth")
    cfg = load_config(str(run.folder / "config.yaml"), ["MODEL.DEVICE", device])
    model = build_model(cfg).eval()
    SafeCheckpointer(model, needed=["*"]).load(str(checkpoint))
    return cfg, model


def load_detectors(run: Run, alone: Run | None, device: str) -> tuple[CfgNode, list[Detector]]:
    """Loads the detectors to compare: teacher, student alone and distilled student, if they exist.

    Raises:
        ValueError: A run has no checkpoint, or is of another tool.
    """
    cfg, model = load_run(run, device)
    if not isinstance(model, DistilledDetector):
        if alone is not None:
            raise ValueError(f"{run.folder}: has no teacher; give its folder as the only one")
        return cfg, [Detector(ALONE, model)]
    model.teacher.load_weights()
    detectors = [Detector(TEACHER, model.teacher.detector, model.teacher.flip_channels)]
    if alone is not None:
        alone_cfg, alone_model = load_run(alone, device)
        flip = alone_cfg.INPUT.FORMAT != cfg.INPUT.FORMAT
        detectors.append(Detector(ALONE, alone_model, flip))
    return cfg, [*detectors, Detector(DISTILLED, model)]


class Matches(NamedTuple):
    """Numbers of objects, of objects found, and of detections that match no object."""

    objects: int
    found: int
    wrong: int

    def __str__(self) -> str:
        """Returns text such as ``5 of 6 objects found, 1 false detection``."""
        objects = "object" if self.objects == 1 else "objects"
        wrong = f"{self.wrong or 'no'} false {'detection' if self.wrong == 1 else 'detections'}"
        return f"{self.found} of {self.objects} {objects} found, {wrong}"


def match(boxes: Tensor, classes: Tensor, detections: Instances) -> Matches:
    """Matches detections, in order of score, to the object of their class that they cover best.

    The objects' boxes are (N, 4), xyxy; their classes (N,).
    """
    detections = detections[detections.scores.argsort(descending=True)]
    overlaps = pairwise_iou(detections.pred_boxes, Boxes(boxes))  # (M, N)
    overlaps[detections.pred_classes[:, None] != classes[None, :]] = 0.0
    free = torch.ones(len(boxes), dtype=torch.bool)
    for overlap in overlaps if len(boxes) else ():
        best, index = (overlap * free).max(0)
        if best >= MIN_IOU:
            free[index] = False
    found = int((~free).sum())
    return Matches(len(boxes), found, len(detections) - found)
