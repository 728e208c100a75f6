"""The frozen teacher: a detector built from a config, whose backbone runs beside the student."""

import logging
import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fam_det.config import default_config, detector_architecture
from fam_det.core.checks import check_choice
from fam_det.data.coco import find_categories
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.files.config_file import merge_config
from fam_det.modeling.lazy_detector import (
    TeacherDetector,
    build_lazy_detector,
    lazy_datasets,
    read_config,
)
from fam_det.modeling.map_cache import MapCache, fingerprint

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_model

logger = logging.getLogger(__name__)

PRECISIONS = {
    "auto": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class FrozenTeacher(nn.Module):
    """A detector that never trains: no gradients, always in eval mode, with its own normalisation.

    Args:
        detector: any Detectron2 meta-architecture with a ``backbone``.
        weights: its checkpoint, anything ``MODEL.WEIGHTS`` takes; "" keeps the weights it has.
        pixel_mean: of its config, in the channel order of ``input_format``.
        pixel_std: of its config, in the channel order of ``input_format``.
        input_format: channel order of its images, such as "BGR".
        student_format: channel order of the images that it gets.
        input_scale: size of its images over that of the student's, 1 or more. Above 1 it gets
            ``teacher_image`` instead of ``image``; see ``fam_det.data.two_sizes``.
        cache: folder in which its maps are cached, "" for none; see ``MapCache``.
        cache_gb: maximal size of that folder.
        precision: key of ``PRECISIONS``; "auto" is bfloat16 on a GPU that supports it, otherwise
            the precision of the training step.

    Raises:
        ValueError: channel orders that cannot be converted, or an unknown precision.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        detector: nn.Module,
        *,
        weights: str,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str,
        student_format: str,
        input_scale: float = 1.0,
        precision: str = "auto",
        cache: str = "",
        cache_gb: float = 10.0,
    ) -> None:
        super().__init__()
        if input_format != student_format and {input_format, student_format} != {"RGB", "BGR"}:
            raise ValueError(
                f"INPUT.FORMAT: got {student_format!r} for the student, expected the teacher's "
                f"{input_format!r} (only RGB and BGR can be converted)"
            )
        check_choice("MODEL.TEACHER.PRECISION", precision, PRECISIONS)
        self.detector = detector.requires_grad_(False)
        self.input_scale = input_scale
        self.cache: MapCache | None = None
        self._cache_options = cache, cache_gb
        self.precision = precision
        self.flip_channels = input_format != student_format
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.weights = weights
        self.is_loaded = False
        self.eval()

    @property
    def backbone(self) -> Any:
        """Returns the part that runs."""
        return self.detector.backbone

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns channels and stride of each feature map."""
        shapes: dict[str, ShapeSpec] = self.backbone.output_shape()
        return shapes

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in eval mode: BatchNorm must not follow the student's data."""
        return super().train(False)

    def load_weights(self, parts: Sequence[str] = ()) -> None:
        """Loads the checkpoint; only training needs it.

        Args:
            parts: that are needed besides the backbone, with the wildcards of ``fnmatch``.

        Raises:
            ValueError: a checkpoint that lacks weights of the backbone or of a part.
        """
        if self.weights:
            try:
                checkpointer = SafeCheckpointer(self.detector, needed=["backbone", *parts])
                checkpointer.load(self.weights)
            except ValueError as error:
                raise ValueError(f"MODEL.TEACHER.WEIGHTS: {error}") from error
        folder, max_gb = self._cache_options
        if folder:
            normalisation = self.pixel_mean.tolist(), self.pixel_std.tolist()
            key = fingerprint(self.backbone, self.precision, self.flip_channels, *normalisation)
            self.cache = MapCache(Path(folder), 1e9 * max_gb, key)
        self.is_loaded = True

    def images(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Returns the images (3, H, W) that it gets, in the student's format.

        Raises:
            ValueError: no ``teacher_image`` although ``input_scale`` is above 1.
        """
        if self.input_scale == 1:
            return [x["image"] for x in batched_inputs]
        if any("teacher_image" not in x for x in batched_inputs):
            raise ValueError(
                f"MODEL.TEACHER.INPUT_SCALE: got {self.input_scale:g}, but the mapper of the "
                "training images returns no 'teacher_image'; use Detectron2's DatasetMapper, or "
                "add it to yours: the larger image, of which the student's is a smaller copy"
            )
        return [x["teacher_image"] for x in batched_inputs]

    @torch.no_grad()
    def forward(
        self,
        batched_inputs: Sequence[dict[str, Any]],
        padded_size: tuple[int, int],
        levels: Collection[str] = (),
    ) -> dict[str, Tensor]:
        """Returns feature maps of the student's images, or of the larger ones beside them.

        Args:
            batched_inputs: as Detectron2's models take them; ``image`` is (3, H, W) in the
                student's format, and so is ``teacher_image``.
            padded_size: (H, W) of the student's padded batch.
            levels: names of the maps to return; all of them by default.

        Returns:
            Feature maps (N, C, H / stride, W / stride) by name, of a batch padded to at least
            ``input_scale`` times that size; in the teacher's dtype, or that of an enclosing
            autocast.
        """
        height, width = (self._padded(math.ceil(side * self.input_scale)) for side in padded_size)
        compute = partial(self._maps, size=(height, width), levels=levels)
        images = self.images(batched_inputs)
        if self.cache is None:
            return compute(images)
        device = self.pixel_mean.device
        options = f"{sorted(levels)}, {self._step_dtype(device.type)}"
        maps = self.cache.maps(images, (height, width), compute, options)
        return {level: x.to(device) for level, x in maps.items()}

    def _maps(
        self, images: Sequence[Tensor], size: tuple[int, int], levels: Collection[str]
    ) -> dict[str, Tensor]:
        height, width = size
        normalised = [self._normalise(x) for x in images]
        batch = torch.stack(
            [F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in normalised]
        )
        with self._autocast(batch.device.type):
            features = self.backbone(batch.contiguous(memory_format=torch.channels_last))
        dtype = self._step_dtype(batch.device.type)
        return {
            level: x.to(dtype).contiguous()
            for level, x in features.items()
            if not levels or level in levels
        }

    def _padded(self, side: int) -> int:
        """Rounds a side up to what the backbone accepts; ViTDet pads to a square of fixed size."""
        square: int = getattr(self.backbone, "padding_constraints", {}).get("square_size", 0)
        divisor = max(self.backbone.size_divisibility, 1)
        return -(-max(side, square) // divisor) * divisor

    def _autocast(self, device_type: str) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.precision]
        if dtype is None:
            if device_type != "cuda" or not torch.cuda.is_bf16_supported():
                return nullcontext()
            dtype = torch.bfloat16
        return torch.autocast(device_type, dtype, enabled=dtype is not torch.float32)

    def _step_dtype(self, device_type: str) -> torch.dtype:
        """Returns the dtype in which the enclosing training step computes convolutions."""
        if torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        return self.pixel_mean.dtype

    def _normalise(self, image: Tensor) -> Tensor:
        """Converts an image to the teacher's channel order and normalises it."""
        image = image.to(self.pixel_mean.device)
        if self.flip_channels:  # first: mean and std are in the teacher's order
            image = image.flip(0)
        return (image - self.pixel_mean) / self.pixel_std


@torch.no_grad()
def fold_batch_norm(backbone: nn.Module) -> None:
    """Folds each BatchNorm into the convolution before it, and stores weights channels last.

    The backbone's maps in eval mode stay the same up to rounding. State-dict keys change, so load
    weights first.

    Args:
        backbone: only Detectron2's ``Conv2d`` are folded, which have their norm as an attribute.
    """
    for module in backbone.modules():
        norm: Any = getattr(module, "norm", None)
        if norm is not None and isinstance(module, nn.Conv2d) and _has_fixed_statistics(norm):
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            folded = fuse_conv_bn_weights(module.weight, module.bias, *statistics)
            module.weight, module.bias = (x.requires_grad_(False) for x in folded)
            module.norm = None  # type: ignore[assignment]
    backbone.to(memory_format=torch.channels_last)


def _has_fixed_statistics(norm: nn.Module) -> bool:
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return isinstance(norm, _BatchNorm) and norm.affine and norm.track_running_stats


def build_teacher(cfg: CfgNode) -> FrozenTeacher:
    """Builds the teacher that ``cfg.MODEL.TEACHER`` names, without loading its checkpoint.

    Raises:
        ValueError: a config that is neither in the model zoo nor a file.
    """
    teacher = build_teacher_detector(cfg)
    if not teacher.weights:
        logger.warning("MODEL.TEACHER.WEIGHTS is empty: the teacher has random weights.")
        _dampen_frozen_norms(teacher.detector)
    return FrozenTeacher(
        **teacher._asdict(),
        student_format=cfg.INPUT.FORMAT,
        input_scale=cfg.MODEL.TEACHER.INPUT_SCALE,
        precision=cfg.MODEL.TEACHER.PRECISION,
        cache=cfg.MODEL.TEACHER.CACHE,
        cache_gb=cfg.MODEL.TEACHER.CACHE_GB,
    )


def build_teacher_detector(cfg: CfgNode) -> TeacherDetector:
    """Builds the detector of a YAML config or a LazyConfig, its checkpoint not yet loaded."""
    path, zoo_weights = find_config(cfg.MODEL.TEACHER.CONFIG)
    if path.endswith(".py"):
        lazy = build_lazy_detector(path, cfg.MODEL.TEACHER.OPTS)
        weights = cfg.MODEL.TEACHER.WEIGHTS
        return lazy._replace(
            weights=(zoo_weights or lazy.weights) if weights == "auto" else weights
        )
    teacher_cfg, weights = teacher_config(cfg)
    return TeacherDetector(
        build_model(teacher_cfg),
        weights,
        teacher_cfg.MODEL.PIXEL_MEAN,
        teacher_cfg.MODEL.PIXEL_STD,
        teacher_cfg.INPUT.FORMAT,
    )


def _dampen_frozen_norms(detector: nn.Module) -> None:
    """Keeps the feature maps of random weights near 1.

    An untrained FrozenBN normalises nothing, so every residual block adds to the variance: the maps
    of a random R101 reach 1e6, and the student would diverge in the first steps.
    """
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.fill_(0.5)


def teacher_config(cfg: CfgNode) -> tuple[CfgNode, str]:
    """Returns the teacher's config and checkpoint.

    Args:
        cfg: config with ``MODEL.TEACHER``.

    Returns:
        A config on the student's device, and the checkpoint, "" for random weights.

    Raises:
        ValueError: a config that is neither in the model zoo nor a file, or that is invalid.
    """
    name, weights = cfg.MODEL.TEACHER.CONFIG, cfg.MODEL.TEACHER.WEIGHTS
    path, zoo_weights = find_config(name)
    teacher_cfg = default_config()
    try:
        merge_config(teacher_cfg, path, cfg.MODEL.TEACHER.OPTS)
    except ValueError as error:
        raise ValueError(f"MODEL.TEACHER: {error}") from error
    if weights == "auto":
        weights = zoo_weights or teacher_cfg.MODEL.WEIGHTS
    # A distilled detector's student is the teacher here.
    teacher_cfg.MODEL.META_ARCHITECTURE = detector_architecture(teacher_cfg)
    teacher_cfg.MODEL.DEVICE = cfg.MODEL.DEVICE
    return teacher_cfg, weights


def teacher_categories(config: str, opts: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Returns ``id`` and ``name`` of a teacher's classes by index; empty if unknown.

    Args:
        config: as ``MODEL.TEACHER.CONFIG``.
        opts: as ``MODEL.TEACHER.OPTS``.
    """
    path, _ = find_config(config)
    if path.endswith(".py"):
        return find_categories(lazy_datasets(read_config(path, opts, "MODEL.TEACHER.OPTS")))
    cfg = default_config()
    cfg.MODEL.TEACHER.CONFIG, cfg.MODEL.TEACHER.OPTS = config, list(opts)
    return find_categories(teacher_config(cfg)[0])


def find_config(name: str) -> tuple[str, str | None]:
    """Returns the path of a config file, and the model zoo's checkpoint for it if there is one."""
    if Path(name).is_file():
        return name, None
    path = Path(model_zoo.__file__).parent / "configs" / name
    if not path.is_file():
        raise ValueError(
            f"MODEL.TEACHER.CONFIG: got {name!r}, expected a file or a name in Detectron2's model "
            "zoo such as 'COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml'"
        )
    try:
        return str(path), model_zoo.get_checkpoint_url(name)
    except RuntimeError:  # the zoo has no checkpoint for some of its configs, such as FCOS
        return str(path), None
