"""The detectors of a run: its student, the teacher, and the student of another run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fam_det.analysis.report.checkpoint import find_checkpoint
from fam_det.analysis.report.runs import Run
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.modeling import DistilledDetector
from fam_det.modeling.hooks import captured_backbone
from fam_det.training.detection import load_config

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "distilled student"


@dataclass(frozen=True)
class Seen:
    """What a detector makes of an image.

    Attributes:
        instances: detections in the image's own size.
        maps: feature maps (C, h, w) by level, without padding.
    """

    instances: Instances
    maps: Mapping[str, Tensor]


class Detector:
    """A detector by its name; ``flip_channels`` for one that wants RGB where inputs are BGR."""

    def __init__(self, name: str, model: Any, *, flip_channels: bool = False) -> None:
        self.name = name
        self.model = model
        self.flip_channels = flip_channels

    @torch.no_grad()
    def look_at(self, inputs: dict[str, Any], levels: Sequence[str]) -> Seen:
        """Detections and feature maps of one image.

        Args:
            inputs: an image as Detectron2's models take it.
            levels: names of the feature maps to keep.
        """
        if self.flip_channels:
            inputs = inputs | {"image": inputs["image"].flip(0)}
        with captured_backbone(self.model.backbone) as captured:
            instances = self.model([inputs])[0]["instances"].to("cpu")
        height, width = inputs["image"].shape[-2:]
        shapes = self.model.backbone.output_shape()
        maps = {
            level: captured["features"][level][
                0, :, : -(-height // shapes[level].stride), : -(-width // shapes[level].stride)
            ]
            for level in levels
            if level in shapes
        }
        return Seen(instances, {level: x.float().cpu() for level, x in maps.items()})


def load_run(run: Run, device: str) -> tuple[CfgNode, Any]:
    """The config and the model of a run, with the weights of its checkpoint.

    Raises:
        ValueError: a run without a checkpoint, or of another tool.
    """
    if run.task != "detection":
        raise ValueError(f"{run.folder}: the run of a classifier; see tools/report.py for its maps")
    checkpoint = find_checkpoint(run)
    if checkpoint is None:
        raise ValueError(f"{run.folder}: has no checkpoint yet, such as model_final.pth")
    cfg = load_config(str(run.folder / "config.yaml"), ["MODEL.DEVICE", device])
    model = build_model(cfg).eval()
    SafeCheckpointer(model, needed=["*"]).load(str(checkpoint))
    return cfg, model


def detectors_of(run: Run, alone: Run | None, device: str) -> tuple[CfgNode, list[Detector]]:
    """The detectors to compare: teacher, student alone, distilled student, as far as there are.

    Args:
        run: any training of ``tools/train_net.py``; one with a teacher gives two detectors.
        alone: the same student trained without it.
        device: such as ``cpu``.

    Raises:
        ValueError: a run without a checkpoint.
    """
    cfg, model = load_run(run, device)
    found = []
    if isinstance(model, DistilledDetector):
        model.teacher.load_weights()
        flip = model.teacher.flip_channels
        found.append(Detector(TEACHER, model.teacher.detector, flip_channels=flip))
    if alone is not None:
        own_cfg, own = load_run(alone, device)
        flip = own_cfg.INPUT.FORMAT != cfg.INPUT.FORMAT
        found.append(Detector(ALONE, own, flip_channels=flip))
    name = DISTILLED if isinstance(model, DistilledDetector) else ALONE
    if name == ALONE and alone is not None:
        raise ValueError(f"{run.folder}: has no teacher; give its folder as the only one")
    return cfg, [*found, Detector(name, model)]


@torch.no_grad()
def transformed_maps(detector: Detector, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a distilled student's transform makes of its maps, (C_teacher, h, w) by level.

    Empty for a detector or a method without a transform of all levels.
    """
    transform = getattr(getattr(detector.model, "distiller", None), "transform", None)
    levels = getattr(getattr(detector.model, "distiller", None), "levels", [])
    if transform is None or any(level not in maps for level in levels):
        return {}
    device = next(detector.model.parameters()).device
    with EventStorage():
        given = transform([maps[level][None].to(device) for level in levels])
    return {level: x[0].float().cpu() for level, x in zip(levels, given, strict=True)}


def checkpoint_name(run: Run) -> str:
    """Folder and file, for people."""
    file = find_checkpoint(run)
    return str(Path(run.folder.name) / file.name) if file else run.folder.name
