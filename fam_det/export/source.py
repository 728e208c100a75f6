"""Reads the inputs of a deployment: config, checkpoint, teacher, images."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fam_det.modeling  # noqa: F401  registers models and weights
from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.analysis.runs import read_config
from fam_det.config import DISTILLED, default_config
from fam_det.data import register_coco_datasets
from fam_det.files import one_line
from fam_det.files.config_file import merge_config
from fam_det.modeling.teacher import FrozenTeacher, build_teacher, find_config, teacher_config

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image

DEPLOYED = "model.pth"  # the student's weights in a deployed folder
MAX_REASON = 200  # characters of a library's error in a message
DEFAULT_SIZE = 800  # pixels of the shorter side, if INPUT.MIN_SIZE_TEST is 0 for no resizing
# Of an invalid or missing config, checkpoint or download.
LOAD_ERRORS = (AssertionError, ImportError, KeyError, OSError, RuntimeError, ValueError)


def read_source(path: Path, weights: str | None, opts: Sequence[str]) -> tuple[CfgNode, str]:
    """Reads the config of an output folder or file, and finds the checkpoint to deploy.

    Without ``weights`` that is the run's, the ``model.pth`` of an earlier deployment, or
    ``MODEL.WEIGHTS`` of the file.
    """
    is_run = path.is_dir()
    file = path / "config.yaml" if is_run else path
    if is_run and "NAME" in read_config(file)["DATASETS"]:
        raise ValueError(f"{path}: the run of a classifier, expected that of a detector")
    if file.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{path}: expected the output folder of a run, or a config in YAML")
    if not file.is_file():
        raise ValueError(
            f"{file}: not there, expected the output folder of a run, or a config in YAML"
        )
    # Without the checks of a training: its data sets and its GPU may be on another machine.
    cfg = default_config()
    merge_config(cfg, file, opts)
    return cfg, find_weights(path, weights, cfg.MODEL.WEIGHTS)


def find_weights(path: Path, weights: str | None, default: str) -> str:
    """Returns the checkpoint to deploy: ``weights``, that of an output folder, or a default."""
    if weights is None and path.is_dir():
        weights = str(find_checkpoint(path) or path / DEPLOYED)
        if not Path(weights).is_file():
            raise ValueError(
                f"{path}: has no checkpoint such as model_final.pth yet; add --weights FILE"
            )
    weights = weights or default
    if not weights:
        raise ValueError("MODEL.WEIGHTS: is empty, expected a checkpoint; add --weights FILE")
    if "://" not in weights and not Path(weights).is_file():
        raise ValueError(f"--weights: {weights} is not there, expected a checkpoint")
    return weights


def load_teacher(cfg: CfgNode) -> tuple[FrozenTeacher | None, str]:
    """Loads the teacher of a run on the CPU, None if it cannot be built.

    The second value is a note on what is missing, "" for nothing.
    """
    if cfg.MODEL.META_ARCHITECTURE != DISTILLED:
        return None, ""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE, cfg.MODEL.TEACHER.CACHE = "cpu", ""
    try:
        teacher = build_teacher(cfg)
    except LOAD_ERRORS as error:
        return None, f"no teacher beside it: {one_line(error, MAX_REASON)}"
    try:
        teacher.load_weights([name for name, _ in teacher.detector.named_children()])
    except LOAD_ERRORS as error:
        return teacher, (
            "the teacher has random weights, so its speed and AP are not a trained one's: "
            f"{one_line(error, MAX_REASON)}"
        )
    return teacher, ""


def teacher_input(cfg: CfgNode, teacher: FrozenTeacher) -> CfgNode:
    """Returns the config of a run with the ``INPUT`` of its teacher.

    A LazyConfig does not define the size of its images: it is ``INPUT_SCALE`` times the student's.
    """
    cfg = cfg.clone()
    if not find_config(cfg.MODEL.TEACHER.CONFIG)[0].endswith(".py"):
        cfg.INPUT = teacher_config(cfg)[0].INPUT
        return cfg
    for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST"):
        cfg.INPUT[key] = round(teacher.input_scale * cfg.INPUT[key])
    if teacher.flip_channels:
        cfg.INPUT.FORMAT = cfg.INPUT.FORMAT[::-1]
    return cfg


class TrainingImages:
    """Evenly spaced images of ``DATASETS.TRAIN``, resized as in an evaluation.

    Raises:
        ValueError: no data set, or a missing one.
    """

    def __init__(self, cfg: CfgNode, count: int) -> None:
        if not cfg.DATASETS.TRAIN:
            raise ValueError("DATASETS.TRAIN: is empty, expected images to calibrate int8 on")
        self.cfg = cfg
        register_coco_datasets(cfg)
        files = [x["file_name"] for x in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])]
        self.files = files[:: -(-len(files) // count)]

    def __iter__(self) -> Iterator[Tensor]:
        """Yields (3, H, W), one at a time."""
        for file in self.files:
            yield read_resized(self.cfg, Path(file))


def example_image(cfg: CfgNode, file: Path | None, size: tuple[int, int] | None) -> Tensor:
    """Returns the image (3, H, W) that exports are traced with, compared on and timed with.

    Its pixels are float32 of 0 to 255 in the order of ``INPUT.FORMAT``. Without a file it is noise,
    in which a trained detector detects little; the default size is ``INPUT.MIN_SIZE_TEST``.
    """
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST or DEFAULT_SIZE, cfg.INPUT.MAX_SIZE_TEST
    if file is None:
        size = size or (shortest, min(shortest * 4 // 3, max(longest, shortest)))
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (3, *size), generator=generator).float()
    try:
        return read_resized(cfg, file, size)
    except OSError as error:
        raise ValueError(f"--image: {file}: {error}") from error


def read_resized(cfg: CfgNode, file: Path, size: tuple[int, int] | None = None) -> Tensor:
    """Returns an image (3, H, W) in the form of ``example_image``."""
    pixels = read_image(str(file), format=cfg.INPUT.FORMAT)
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    resize = T.Resize(size) if size else T.ResizeShortestEdge(shortest, longest)
    resized = resize.get_transform(pixels).apply_image(pixels)  # (H, W, 3)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32))
