"""Loads the detectors of runs, runs them on an image, and matches detections with objects."""

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
    """A detector with a name.

    ``flip_channels`` converts inputs from BGR to RGB or back. ``classes`` are its indices of the
    data's classes; None if they are the same.
    """

    name: str
    model: Any
    flip_channels: bool = False
    classes: Sequence[int] | None = None

    @torch.no_grad()
    def detect(
        self, inputs: dict[str, Any], levels: Sequence[str]
    ) -> tuple[Instances, dict[str, Tensor]]:
        """Returns detections in pixels of the image, and unpadded maps (C, h, w) by level."""
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
    """Returns the detections of these classes (C,), renumbered by their positions."""
    same = instances.pred_classes[:, None] == classes  # (N, C)
    kept = instances[same.any(1)]
    kept.pred_classes = same[same.any(1)].int().argmax(1) if len(kept) else kept.pred_classes
    return kept


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
        ValueError: a run has no checkpoint, or is of a classifier.
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
    """Numbers of objects, true positives and false positives."""

    objects: int
    found: int
    wrong: int

    def __str__(self) -> str:
        """Returns text such as ``5 of 6 objects found, 1 false detection``."""
        objects = "object" if self.objects == 1 else "objects"
        wrong = f"{self.wrong or 'no'} false {'detection' if self.wrong == 1 else 'detections'}"
        return f"{self.found} of {self.objects} {objects} found, {wrong}"


def match(boxes: Tensor, classes: Tensor, detections: Instances) -> Matches:
    """Matches detections, in order of score, with the unmatched object of the highest IoU.

    Args:
        boxes: of the objects, xyxy, (N, 4).
        classes: of the objects, (N,).
        detections: of the same image.
    """
    detections = detections[detections.scores.argsort(descending=True)]
    iou = pairwise_iou(detections.pred_boxes, Boxes(boxes))  # (M, N)
    iou[detections.pred_classes[:, None] != classes[None, :]] = 0.0
    unmatched = torch.ones(len(boxes), dtype=torch.bool)
    for row in iou if len(boxes) else ():
        best, index = (row * unmatched).max(0)
        if best >= MIN_IOU:
            unmatched[index] = False
    found = int((~unmatched).sum())
    return Matches(len(boxes), found, len(detections) - found)
