"""Reads a detector, as a teacher, from a LazyConfig file."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from fam_det.config import default_config

from detectron2.config import CfgNode, LazyConfig, instantiate
from detectron2.data import DatasetMapper
from detectron2.utils.registry import locate

IMAGE_FORMAT = "dataloader.train.mapper.image_format"


class TeacherDetector(NamedTuple):
    """A detector, and what its config says of its checkpoint and images."""

    detector: nn.Module
    weights: str
    pixel_mean: list[float]
    pixel_std: list[float]
    input_format: str


def build_lazy_detector(path: str, overrides: Sequence[str]) -> TeacherDetector:
    """Builds the detector of a LazyConfig file, its checkpoint not yet loaded.

    The file has ``model`` and, for its checkpoint, ``train.init_checkpoint``.
    """
    cfg = read_config(path, overrides, "MODEL.TEACHER.OPTS")
    if "model" not in cfg:
        raise ValueError(f"MODEL.TEACHER.CONFIG: {path} defines {list(cfg)}, expected 'model'")
    # The student of a distillation is the teacher here: see fam_det.modeling.lazy.distill.
    detector: Any = instantiate(cfg.model.student if "student" in cfg.model else cfg.model)
    return TeacherDetector(
        detector,
        OmegaConf.select(cfg, "train.init_checkpoint", default=""),
        detector.pixel_mean.flatten().tolist(),
        detector.pixel_std.flatten().tolist(),
        _input_format(path, cfg, detector),
    )


def read_config(path: str, overrides: Sequence[Any], key: str) -> DictConfig:
    """Reads a LazyConfig file with "path.key=value" overrides, whose errors name ``key``.

    An override of a node that the file lacks is an error; Detectron2 silently adds it.
    """
    cfg = LazyConfig.load(path)
    for override in map(str, overrides):
        if "=" not in override or re.split(r"[.=]", override)[0] not in cfg:
            raise ValueError(
                f"{key}: got {override!r}, expected path.key=value with a path in {list(cfg)}"
            )
    try:
        return LazyConfig.apply_overrides(cfg, list(overrides))
    except HydraException as error:
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error


def lazy_datasets(cfg: DictConfig) -> CfgNode:
    """Returns ``datasets`` and ``dataloader`` of a LazyConfig under the keys of a YAML config."""
    yacs = default_config()
    yacs.MODEL.META_ARCHITECTURE = ""  # unknown: the number of classes is not checked then
    yacs.DATASETS.COCO = to_container(OmegaConf.select(cfg, "datasets.coco")) or []
    for key in ("strict", "follow_links", "allow_odd_boxes"):
        yacs.DATASETS[key.upper()] = bool(OmegaConf.select(cfg, f"datasets.{key}"))
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper")
    target = mapper.get("_target_") if isinstance(mapper, DictConfig) else None
    is_detectron2s = (locate(target) if isinstance(target, str) else target) is DatasetMapper
    # Detectron2's mapper says whether it reads masks; a user's own may read them.
    yacs.MODEL.MASK_ON = bool(mapper.get("use_instance_mask")) if is_detectron2s else True
    for key, loader in (("TRAIN", "train"), ("TEST", "test")):
        names = OmegaConf.select(cfg, f"dataloader.{loader}.dataset.names") or ()
        yacs.DATASETS[key] = (names,) if isinstance(names, str) else tuple(names)
    return yacs


def to_container(value: Any) -> Any:
    """Converts OmegaConf's containers to dictionaries and lists, and tuples to lists."""
    if isinstance(value, (DictConfig, ListConfig)):
        return OmegaConf.to_container(value, resolve=True)
    return list(value) if isinstance(value, tuple) else value


def _input_format(path: str, cfg: DictConfig, detector: nn.Module) -> str:
    """Returns the channel order of the images; detectors such as FCOS have no ``input_format``."""
    image_format = OmegaConf.select(cfg, IMAGE_FORMAT) or getattr(detector, "input_format", None)
    if image_format is None:
        raise ValueError(
            f"MODEL.TEACHER.CONFIG: {path} has neither {IMAGE_FORMAT} nor model.input_format, "
            "expected one of them to say 'RGB' or 'BGR'"
        )
    return str(image_format)
