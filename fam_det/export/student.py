"""Saves the student alone, as a config and a checkpoint of plain Detectron2."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fam_det.analysis.checkpoint import DISTILLER
from fam_det.config import detector_architecture
from fam_det.core.checks import check_choice
from fam_det.export.source import DEPLOYED, MAX_REASON
from fam_det.files import one_line
from fam_det.files.checkpointer import SafeCheckpointer, WeightsMismatchError
from fam_det.training.detection import BACKBONES

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model

DETECTRON2_PACKAGES = {"torch", "torchvision", "detectron2", "fvcore"}


def student_config(cfg: CfgNode) -> CfgNode:
    """Returns the student's config without this project's keys, except those of its backbone."""
    plain = get_cfg()
    _copy_known(cfg, plain)
    name = plain.MODEL.META_ARCHITECTURE = detector_architecture(cfg)
    check_choice("META_ARCHITECTURE", name, sorted(known for known, _ in META_ARCH_REGISTRY))
    for part, node in BACKBONES.items():
        if part in plain.MODEL.BACKBONE.NAME:
            plain.MODEL[node] = cfg.MODEL[node].clone()
    return plain


def _copy_known(source: CfgNode, target: CfgNode) -> None:
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _copy_known(source[key], value)
        else:
            target[key] = source[key]


def load_student(source: CfgNode, weights: str) -> tuple[CfgNode, Any]:
    """Returns the student's config, and the student with its weights on the CPU, in eval mode."""
    cfg = student_config(source)
    on_cpu = cfg.clone()
    on_cpu.MODEL.DEVICE = "cpu"
    try:
        student = build_model(on_cpu)
    except (AssertionError, ImportError, KeyError) as error:
        raise ValueError(f"the student cannot be built: {one_line(error, MAX_REASON)}") from error
    try:
        _ExactCheckpointer(student, needed=["*"]).load(weights)
    except (AssertionError, KeyError, OSError, RuntimeError) as error:  # of a failed download too
        raise ValueError(f"--weights: {weights}: {one_line(error, MAX_REASON)}") from error
    return cfg, student.eval().requires_grad_(False)


class _ExactCheckpointer(SafeCheckpointer):
    """A checkpointer that ignores only the weights of the distiller."""

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        unknown = [x for x in incompatible.unexpected_keys if not x.startswith(DISTILLER)]
        if unknown:
            raise WeightsMismatchError(
                f"{len(unknown)} weights are not of the student of the config, the first is "
                f"{unknown[0]}; expected a checkpoint of its training"
            )
        return incompatible


def save_student(cfg: CfgNode, student: nn.Module, folder: Path) -> Path:
    """Writes ``config.yaml`` and ``model.pth``, which the config names; returns the latter."""
    file = folder / DEPLOYED
    torch.save({"model": student.state_dict()}, file)
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(file)
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    return file


def needed_packages(cfg: CfgNode, student: nn.Module) -> list[str]:
    """Returns the packages besides Detectron2 that define the student, such as "fam_det"."""
    parts: list[Any] = [type(module) for module in student.modules()]
    parts.append(BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME))
    return sorted({part.__module__.partition(".")[0] for part in parts} - DETECTRON2_PACKAGES)
