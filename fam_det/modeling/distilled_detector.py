"""A student detector that learns from a teacher: one wrapper for every meta-architecture."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.core.checks import check_choice, check_positive
from fam_det.core.resample import resample
from fam_det.data.coco import find_categories
from fam_det.files.checkpointer import is_below
from fam_det.modeling.anchors import warn_of_anchor_mismatch
from fam_det.modeling.basis import find_basis, second_moments
from fam_det.modeling.distillers.base import Distiller, build_distiller
from fam_det.modeling.head_loss import HEAD_LOSSES, head_losses, head_parts
from fam_det.modeling.hooks import captured_backbone
from fam_det.modeling.ignored import ignoring
from fam_det.modeling.inherit import check_class_order, first_layers, inherit
from fam_det.modeling.levels import (
    MATCHES,
    match_levels,
    pair_levels,
    paired_shapes,
    thin_maps,
    valid_sizes,
)
from fam_det.modeling.metrics import log_scalars, put_feature_images, timed_scalar
from fam_det.modeling.student_wrapper import StudentWrapper
from fam_det.modeling.teacher import (
    FrozenTeacher,
    build_teacher,
    fold_batch_norm,
    teacher_categories,
)

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage

logger = logging.getLogger(__name__)
ANCHOR_HEADS = ("proposal_generator", "head")  # parts that score anchors


@META_ARCH_REGISTRY.register()
class DistilledDetector(StudentWrapper):
    """The student, with a distiller beside it while it trains.

    Its checkpoint is a checkpoint of the student with extra ``distiller.*`` keys, which plain
    Detectron2 loads.

    In training the student computes its own losses, a forward hook records its feature maps, and
    ``loss_distill`` is added. In inference this is the student.

    Args:
        student: a Detectron2 detector with a ``backbone``.
        teacher: run on the same images, padded to the same size.
        distiller: returns unweighted losses by name, most of them one a level.
        strides: stride of each distilled level.
        loss_weight: weight of the sum of the levels' losses.
        head_weight: weight of the sum of the losses through the teacher's heads, 0 for none.
        warmup_iters: iterations over which both weights rise linearly from 0.
        vis_period: iterations between images of the maps for TensorBoard, 0 for none.
        inherited: parts that ``load_teacher`` copies from the teacher; see ``inherit``. Weights
            that a checkpoint has loaded before are kept.
        classes: the teacher's class for each of the student's; see ``inherit``.
        basis_images: images on which the basis of the teacher's maps is computed if the student's
            are thinner; see ``basis``.
        start_at_basis: whether the distiller is initialised with that basis.
        match: key of ``MATCHES``, for a teacher that sees larger images.

    Raises:
        ValueError: a negative weight or number of iterations, or detectors that the distiller
            cannot be used with.
    """

    teacher: FrozenTeacher

    @configurable
    def __init__(
        self,
        *,
        student: nn.Module,
        teacher: FrozenTeacher,
        distiller: Distiller,
        strides: dict[str, int],
        loss_weight: float = 1.0,
        head_weight: float = 0.0,
        warmup_iters: int = 0,
        vis_period: int = 0,
        inherited: Sequence[str] = (),
        classes: Sequence[int] = (),
        basis_images: int = 64,
        start_at_basis: bool = False,
        match: str = "same_level",
    ) -> None:
        super().__init__(student, teacher)
        check_positive("MODEL.DISTILLER.LOSS_WEIGHT", loss_weight, zero=True)
        check_positive("MODEL.DISTILLER.HEAD_WEIGHT", head_weight, zero=True)
        check_positive("MODEL.DISTILLER.WARMUP_ITERS", warmup_iters, zero=True)
        check_positive("MODEL.TEACHER.BASIS_IMAGES", basis_images)
        distiller.check(student, teacher.detector)
        self.distiller = distiller
        self.strides = strides
        self.loss_weight = loss_weight
        self.head_weight = head_weight
        self.warmup_iters = warmup_iters
        self.vis_period = vis_period
        self.inherited = list(inherited)
        self.classes = list(classes)
        self._basis_images = basis_images
        self._start_at_basis = start_at_basis
        student_shapes, teacher_shapes = self.backbone.output_shape(), teacher.output_shape()
        self._pairs = pair_levels(student_shapes, teacher_shapes, match, teacher.input_scale)
        # None: the cells of paired maps cover the same area of the image, nothing is resampled.
        self._resampling = MATCHES[match] if teacher.input_scale > 1 else None
        if self._resampling and distiller.teacher_parts:
            raise ValueError(
                f"MODEL.TEACHER.MATCH: got {match!r}, expected 'same_scale' for "
                f"{type(distiller).__name__}, which runs the teacher's heads on these maps"
            )
        if head_weight > 0 and match == "same_scale" and teacher.input_scale > 1:
            raise ValueError(
                f"MODEL.TEACHER.MATCH: got {match!r}, expected 'same_level' with "
                "MODEL.DISTILLER.HEAD_WEIGHT: the teacher's heads know its maps by their own names"
            )
        self._head_parts = head_parts(teacher.detector, strides) if head_weight > 0 else []
        thin = thin_maps(
            [student_shapes[level].channels for level in self._pairs],
            [teacher_shapes[level].channels for level in self._pairs.values()],
        )
        if thin and (start_at_basis or inherited):
            width, channels = thin
            # A buffer: the checkpoint holds the basis, and a resumed run takes it from there.
            distiller.register_buffer("basis", torch.zeros(channels, width))
        self._loaded_keys: set[str] = set()  # of the checkpoints loaded so far
        self.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            DistilledDetector._record_loaded_keys
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Builds student, teacher and distiller, and matches their levels."""
        student, teacher = build_student(cfg), build_teacher(cfg)
        node = cfg.MODEL.TEACHER
        arguments = distillation_arguments(cfg, student, teacher)
        if node.INHERIT and not node.CLASSES:
            check_class_order(
                student,
                teacher.detector,
                node.INHERIT,
                find_categories(cfg),
                teacher_categories(node.CONFIG, node.OPTS),
            )
        return arguments

    def load_teacher(self, batches: Iterable[list[dict[str, Any]]] = ()) -> None:
        """Loads the teacher's checkpoint, then copies the inherited parts into the student.

        Call it once before the first training step, after the student's own weights are loaded.
        Further calls do nothing.

        Args:
            batches: training images, for a student whose maps are thinner than the teacher's;
                ``MODEL.TEACHER.BASIS_IMAGES`` of them are read.
        """
        if self.teacher.is_loaded:
            return
        detector = self.teacher.detector
        parts = [part for part in self.inherited if not self._has_loaded(part)]
        self.teacher.load_weights([*parts, *self.distiller.teacher_parts, *self._head_parts])
        inherit(
            self.student,
            detector,
            parts,
            keep=self._loaded_keys,
            basis=self._basis(parts, batches),
            classes=self.classes,
        )
        if any(part.startswith(ANCHOR_HEADS) for part in parts):
            warn_of_anchor_mismatch(self.student, detector, self._pairs, self.teacher.input_scale)
        self._log_summary(parts)
        fold_batch_norm(self.teacher.backbone)  # last: it changes the state-dict keys

    def _log_summary(self, inherited: Sequence[str]) -> None:
        """Logs the student, the teacher, and what is distilled."""
        teacher = describe_detector(self.teacher.detector)
        weights = f"loss weight {self.loss_weight:g}"
        if self.head_weight > 0:
            weights += f", of its heads {self.head_weight:g}"
        logger.info("Student: %s", describe_detector(self.student))
        logger.info("Teacher: %s, %s", teacher, self.teacher.weights or "random weights")
        levels, method = ", ".join(self.strides), type(self.distiller).__name__
        logger.info("Distilled: %s, %s, %s", levels, method, weights)
        if inherited:
            logger.info("The student starts with the teacher's %s", ", ".join(inherited))

    def _basis(
        self, parts: Sequence[str], batches: Iterable[list[dict[str, Any]]]
    ) -> Tensor | None:
        """Returns the basis of the teacher's maps, from the checkpoint if that has one.

        None if the student's maps are not thinner, or if neither heads nor distiller need it.
        """
        basis: Tensor | None = getattr(self.distiller, "basis", None)
        if basis is None or "distiller.basis" in self._loaded_keys:
            return basis
        layers = first_layers(self.student, self.teacher.detector, parts, *basis.shape)
        if not (layers or self._start_at_basis):
            return None
        moments = second_moments(self.teacher, self._pairs.values(), batches, self._basis_images)
        basis.copy_(find_basis(moments, layers, basis.shape[1]))
        if self._start_at_basis:
            self.distiller.start_at(basis)
        return basis

    def _record_loaded_keys(self, state_dict: Mapping[str, Any], *_: Any) -> None:
        """Records what a checkpoint has: the teacher's weights must not overwrite it."""
        self._loaded_keys |= set(state_dict)

    def _has_loaded(self, part: str) -> bool:
        keys = [key for key in self.student.state_dict() if is_below(key, part)]
        return bool(keys) and self._loaded_keys.issuperset(keys)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Returns the student's losses and ``loss_distill``; in inference its detections."""
        if not self.training:
            return self.student(batched_inputs)
        if not self.teacher.is_loaded:
            raise RuntimeError("the teacher is not loaded: call load_teacher() before training")
        with (
            captured_backbone(self.backbone) as backbone,
            self.distiller.capture(self.student, self.teacher.detector, batched_inputs) as captured,
            ignoring(self.student, batched_inputs) as student_inputs,
        ):
            losses: dict[str, Tensor] = self.student(student_inputs)
        losses["loss_distill"] = self._distill(
            batched_inputs, backbone["features"], backbone["padded_size"], captured
        )
        return losses

    def _distill(
        self,
        batched_inputs: list[dict[str, Any]],
        student_features: dict[str, Tensor],
        padded_size: tuple[int, int],
        captured: dict[str, Any],
    ) -> Tensor:
        """Returns the weighted sum of the distiller's losses, and logs each of them."""
        teacher_levels = {self._pairs[level] for level in self.strides}
        with timed_scalar("teacher_time", self.teacher.pixel_mean.device):
            maps = self.teacher(batched_inputs, padded_size, teacher_levels)
        teacher_features = {
            level: self._match_size(maps[self._pairs[level]], x)
            for level, x in student_features.items()
            if level in self.strides
        }
        # Of the unpadded images: cells of padding do not count in any loss.
        image_sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
        cells = {level: valid_sizes(image_sizes, stride) for level, stride in self.strides.items()}
        if self.head_weight > 0:
            captured["compare_heads"] = partial(
                head_losses,
                self.teacher.detector,
                teacher_features=teacher_features,
                valid_sizes=cells,
                image_sizes=image_sizes,
                input_scale=self.teacher.input_scale,
            )
        losses: dict[str, Tensor] = self.distiller(
            student_features, teacher_features, cells, **captured
        )
        storage = get_event_storage()
        warmup = self._warmup(storage.iter)
        weight, head_weight = warmup * self.loss_weight, warmup * self.head_weight
        storage.put_scalar("distiller/loss_weight", weight)
        if head_weight > 0:
            storage.put_scalar("distiller/head_weight", head_weight)
        named = {f"loss_{name}": loss for name, loss in losses.items()}
        log_scalars(named | self.distiller.metrics())
        if self.vis_period > 0 and storage.iter % self.vis_period == 0:
            put_feature_images(storage, student_features, teacher_features)
        weights = [head_weight if name in HEAD_LOSSES else weight for name in losses]
        return torch.stack([w * x for w, x in zip(weights, losses.values(), strict=True)]).sum()

    def _match_size(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the teacher's map (N, C, H', W'), cropped or resampled to the student's cells."""
        height, width = student.shape[2:]
        if self._resampling is None:
            # A teacher with a larger size_divisibility has more padding, right and below.
            return teacher[..., :height, :width]
        return resample(teacher, (height, width), self.teacher.input_scale, self._resampling)

    def _warmup(self, iteration: int) -> float:
        """Returns the warm-up factor of an iteration, counted from 0."""
        return min((iteration + 1) / max(self.warmup_iters, 1), 1.0)


def describe_detector(detector: Any) -> str:
    """Returns the classes of a detector and its backbone, and the number of its parameters."""
    backbone = detector.backbone
    networks = filter(None, (detector, backbone, getattr(backbone, "bottom_up", None)))
    names = ", ".join(type(network).__name__ for network in networks)
    # The wrapper shares the student's dictionaries of modules, so the distiller is among them.
    parameters = detector.named_parameters()
    count = sum(x.numel() for name, x in parameters if not name.startswith("distiller."))
    return f"{names}, {count / 1e6:.2f} M parameters"


def distillation_arguments(cfg: CfgNode, student: Any, teacher: FrozenTeacher) -> dict[str, Any]:
    """Returns the arguments of ``DistilledDetector`` for a student and a teacher.

    Args:
        cfg: with ``MODEL.DISTILLER``, ``MODEL.TEACHER`` and ``VIS_PERIOD``.
        student: a detector with a ``backbone``.
        teacher: of any detector.

    Raises:
        ValueError: levels or options that do not fit the two; the message names the key.
    """
    student_shape: dict[str, ShapeSpec] = student.backbone.output_shape()
    teacher_shape = paired_shapes(
        student_shape, teacher.output_shape(), cfg.MODEL.TEACHER.MATCH, teacher.input_scale
    )
    try:
        levels = match_levels(cfg.MODEL.DISTILLER.LEVELS, student_shape, teacher_shape)
    except ValueError as error:
        if cfg.MODEL.TEACHER.MATCH != "same_scale":
            raise
        raise ValueError(
            f"{error}; MODEL.TEACHER.MATCH 'same_scale' calls a map of the teacher by the name of "
            "the student's map with as many cells"
        ) from error
    distiller = build_distiller(cfg, levels, student_shape, teacher_shape)
    inherited, init = cfg.MODEL.TEACHER.INHERIT, cfg.MODEL.DISTILLER.FAM.INIT
    reads_fam = "FAM" in (distiller.reads or ())
    return {
        "student": student,
        "teacher": teacher,
        "distiller": distiller,
        "strides": {level: student_shape[level].stride for level in levels},
        "loss_weight": cfg.MODEL.DISTILLER.LOSS_WEIGHT,
        "head_weight": cfg.MODEL.DISTILLER.HEAD_WEIGHT if distiller.compares_heads else 0.0,
        "warmup_iters": cfg.MODEL.DISTILLER.WARMUP_ITERS,
        "vis_period": cfg.VIS_PERIOD,
        "inherited": inherited,
        "classes": cfg.MODEL.TEACHER.CLASSES,
        "basis_images": cfg.MODEL.TEACHER.BASIS_IMAGES,
        "match": cfg.MODEL.TEACHER.MATCH,
        # The adapters of methods without FAM follow the heads.
        "start_at_basis": init == "identity" if reads_fam else bool(inherited),
    }


def build_student(cfg: CfgNode) -> Any:
    """Builds the detector that ``MODEL.STUDENT.META_ARCHITECTURE`` names, from the usual keys.

    Raises:
        ValueError: an unknown name, or a detector without a ``backbone``.
    """
    name = cfg.MODEL.STUDENT.META_ARCHITECTURE
    known = {known for known, _ in META_ARCH_REGISTRY} - {DistilledDetector.__name__}
    check_choice("MODEL.STUDENT.META_ARCHITECTURE", name, sorted(known))
    student = META_ARCH_REGISTRY.get(name)(cfg)
    if not hasattr(student, "backbone"):
        raise ValueError(
            f"MODEL.STUDENT.META_ARCHITECTURE: {name!r} has no 'backbone' to take feature maps from"
        )
    return student
