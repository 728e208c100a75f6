"""Detects in images of any size: resizes them, and returns boxes in their pixels."""

import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fam_det.data.coco import count_classes, find_categories
from fam_det.export.evaluate import RunnerDetector
from fam_det.export.formats import open_session, run_session
from fam_det.export.media import UnreadableError
from fam_det.export.source import MAX_REASON, read_source
from fam_det.export.student import load_student
from fam_det.files import one_line
from fam_det.training.trainer import check_device

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.structures import Instances

Inputs = dict[str, Any]  # "image" (3, h, w), and its "height" and "width" before resizing
OUTPUTS = {"pred_boxes", "pred_classes", "scores"}  # of an ONNX file


@dataclass(frozen=True)
class Predictor:
    """Detects with the resizing and the thresholds of an evaluation."""

    detect: Callable[[Inputs], Instances]
    resize: T.AugmentationList
    input_format: str  # INPUT.FORMAT
    categories: Sequence[dict[str, Any]]  # "id" and "name" by class index
    has_names: bool  # False if the names are numbers

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8]) -> Instances:
        """Returns detections in an image (H, W, 3), its channels in ``input_format``, on the CPU.

        Boxes are in its pixels, and masks (N, H, W).

        Raises:
            UnreadableError: an image is too thin to be resized.
        """
        height, width = image.shape[:2]
        inputs = T.AugInput(image)
        try:
            self.resize(inputs)
        except ValueError as error:  # of Pillow
            raise UnreadableError(f"{width}x{height} pixels, too thin to be resized") from error
        pixels = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        return self.detect({"image": pixels, "height": height, "width": width})


def load_predictor(source: Path, weights: str | None, device: str | None) -> Predictor:
    """Loads a run, a config with ``weights``, a deployed folder or a deployed ONNX file.

    ``device`` is "cpu", "cuda", or None for the GPU if PyTorch sees one, and the CPU for ONNX.

    Raises:
        ValueError: an invalid source, checkpoint or device.
        ImportError: onnxruntime, for an ONNX file, is not installed.
    """
    if source.suffix == ".onnx":
        cfg, detector = _load_onnx(source, weights, device or "cpu")
    else:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        check_device(device, False, ("--device", ""))
        cfg, weights = read_source(source, weights, [])
        detector = load_student(cfg, weights)[1].to(device)
    folder = source if source.is_dir() else source.parent
    return detectron2_predictor(detector, cfg, find_categories(cfg) or _deployed_categories(folder))


def _deployed_categories(folder: Path) -> list[dict[str, Any]]:
    """Returns the categories in the deploy.json of tools/deploy.py, if any."""
    try:
        return list(json.loads((folder / "deploy.json").read_text())["categories"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def detectron2_predictor(
    detector: Any, cfg: CfgNode, categories: Sequence[dict[str, Any]] = ()
) -> Predictor:
    """Returns the predictor of a detector in eval mode; ``cfg`` has its ``INPUT`` and classes."""
    classes = range(count_classes(cfg) or cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    return Predictor(
        lambda inputs: detector([inputs])[0]["instances"].to("cpu"),
        T.AugmentationList(build_augmentation(cfg, is_train=False)),
        cfg.INPUT.FORMAT,
        categories or [{"id": number, "name": str(number)} for number in classes],
        has_names=bool(categories),
    )


def _load_onnx(file: Path, weights: str | None, device: str) -> tuple[CfgNode, RunnerDetector]:
    """Returns the config beside the file, and a detector that runs it."""
    config = file.with_name("config.yaml")
    if weights:
        raise ValueError(f"--weights: got {weights}, but {file} has its own; leave it out")
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file")
    if not config.is_file():
        raise ValueError(
            f"{config}: not there; expected the config that tools/deploy.py writes beside an ONNX "
            "file, for sizes and order of channels"
        )
    cfg, _ = read_source(config, str(file), [])
    if importlib.util.find_spec("onnxruntime") is None:
        raise ImportError(f"{file}: onnxruntime is not installed; pip install onnxruntime")
    onnxruntime: Any = importlib.import_module("onnxruntime")
    provider = f"{device.upper()}ExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(
            f"--device: got {device!r}, but onnxruntime has no {provider}; add --device cpu, or "
            "install onnxruntime-gpu"
        )
    try:
        session = open_session(file, provider)
    except Exception as error:  # onnxruntime's errors have no class of their own
        raise ValueError(f"{file}: {one_line(error, MAX_REASON)}") from error
    names = [output.name for output in session.get_outputs()]
    if not OUTPUTS.issubset(names):
        raise ValueError(
            f"{file}: got the outputs {names}, expected {sorted(OUTPUTS)} as of tools/deploy.py"
        )
    return cfg, RunnerDetector(run_session(session))
