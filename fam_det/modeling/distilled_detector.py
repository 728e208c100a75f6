"""A student detector that learns from a teacher: one wrapper for every meta-architecture."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fam_det.files.checkpointer import is_below
from fam_det.modeling.distillers.base import Distiller, build_distiller
from fam_det.modeling.feature_images import put_maps
from fam_det.modeling.hooks import watched
from fam_det.modeling.inherit import inherit
from fam_det.modeling.levels import match_levels, valid_sizes
from fam_det.modeling.student_wrapper import StudentWrapper
from fam_det.modeling.teacher import FrozenTeacher, build_teacher

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage


@META_ARCH_REGISTRY.register()
class DistilledDetector(StudentWrapper):
    """The student, with a distiller beside it while it trains.

    Its checkpoint is a checkpoint of the student with extra ``distiller.*`` keys, which plain
    Detectron2 loads.

    In training the student computes its own losses; its feature maps are taken from its backbone on
    the way, and ``loss_fam`` is added. In inference this is the student.

    Args:
        student: a Detectron2 detector with a ``backbone``.
        teacher: run on the same images, padded to the same size.
        distiller: gives unweighted losses by name, most of them one a level.
        strides: stride of each level of the distiller.
        loss_weight: weight of the sum of the levels' losses.
        warmup_iters: iterations over which the weight rises linearly from 0.
        vis_period: iterations between pictures of the maps for TensorBoard, 0 for none.
        inherited: parts that take the teacher's weights when the first training starts; see
            ``inherit``. Weights that are loaded, before or after, are kept.

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
        warmup_iters: int = 0,
        vis_period: int = 0,
        inherited: Sequence[str] = (),
    ) -> None:
        super().__init__(student, teacher)
        for key, value in (("LOSS_WEIGHT", loss_weight), ("WARMUP_ITERS", warmup_iters)):
            if value < 0:
                raise ValueError(f"MODEL.DISTILLER.{key}: got {value}, expected 0 or more")
        distiller.check(student, teacher.detector)
        self.distiller = distiller
        self.strides = strides
        self.loss_weight = loss_weight
        self.warmup_iters = warmup_iters
        self.vis_period = vis_period
        self._to_inherit = list(inherited)
        self.register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
            DistilledDetector._before_loading
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build student, teacher and distiller, and match their levels."""
        return distillation(cfg, build_student(cfg), build_teacher(cfg))

    def train(self, mode: bool = True) -> "DistilledDetector":
        """Switch the student and the distiller; the teacher is loaded and stays in eval mode."""
        super().train(mode)
        if mode:
            self.teacher.load_weights([*self._to_inherit, *self.distiller.teacher_parts])
            parts, self._to_inherit = self._to_inherit, []
            inherit(self.student, self.teacher.detector, parts)
        return self

    def _before_loading(self, state_dict: Mapping[str, Any], *_: Any) -> None:
        """Weights of a checkpoint are not to be replaced by the teacher's."""
        self._to_inherit = [
            part
            for part in self._to_inherit
            if not any(is_below(name, part) for name in state_dict)
        ]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """In training the student's losses and ``loss_fam``, otherwise its detections."""
        if not self.training:
            return self.student(batched_inputs)
        with (
            captured_backbone(self.backbone) as captured,
            self.distiller.watch(self.student, self.teacher.detector, batched_inputs) as seen,
        ):
            losses: dict[str, Tensor] = self.student(batched_inputs)
        losses["loss_fam"] = self._distill(batched_inputs, captured, seen)
        return losses

    def _distill(
        self, batched_inputs: list[dict[str, Any]], captured: dict[str, Any], seen: dict[str, Any]
    ) -> Tensor:
        self.teacher.load_weights(self.distiller.teacher_parts)
        student_features: dict[str, Tensor] = captured["features"]
        teacher_features = self.teacher(batched_inputs, captured["padded_size"])
        # A teacher with a larger divisor sees more padding; the images lie at the top left.
        teacher_features = {
            level: teacher_features[level][..., : x.shape[2], : x.shape[3]]
            for level, x in student_features.items()
            if level in self.strides
        }
        image_sizes = [tuple(x["image"].shape[-2:]) for x in batched_inputs]
        named_losses: dict[str, Tensor] = self.distiller(
            student_features,
            teacher_features,
            {level: valid_sizes(image_sizes, stride) for level, stride in self.strides.items()},
            **seen,
        )
        storage = get_event_storage()
        weight = self.loss_weight * self._warmup(storage.iter)
        losses = torch.stack(list(named_losses.values()))
        for name, loss in zip(named_losses, losses.detach().tolist(), strict=True):
            storage.put_scalar(f"distiller/loss_{name}", loss)
        storage.put_scalar("distiller/loss_weight", weight)
        if self.vis_period > 0 and storage.iter % self.vis_period == 0:
            put_maps(storage, student_features, teacher_features)
        return weight * losses.sum()

    def _warmup(self, iteration: int) -> float:
        """Share of the full weight at an iteration, counted from 0."""
        return min((iteration + 1) / max(self.warmup_iters, 1), 1.0)


def distillation(cfg: CfgNode, student: Any, teacher: FrozenTeacher) -> dict[str, Any]:
    """Arguments of ``DistilledDetector`` for these two and ``cfg.MODEL.DISTILLER``."""
    student_shape: dict[str, ShapeSpec] = student.backbone.output_shape()
    levels = match_levels(cfg.MODEL.DISTILLER.LEVELS, student_shape, teacher.output_shape())
    return {
        "student": student,
        "teacher": teacher,
        "distiller": build_distiller(cfg, levels, student_shape, teacher.output_shape()),
        "strides": {level: student_shape[level].stride for level in levels},
        "loss_weight": cfg.MODEL.DISTILLER.LOSS_WEIGHT,
        "warmup_iters": cfg.MODEL.DISTILLER.WARMUP_ITERS,
        "vis_period": cfg.VIS_PERIOD,
        "inherited": cfg.MODEL.TEACHER.INHERIT,
    }


def build_student(cfg: CfgNode) -> Any:
    """The detector that ``MODEL.STUDENT.META_ARCHITECTURE`` names, from the usual keys.

    Raises:
        ValueError: an unknown name, or a detector without a ``backbone``.
    """
    name = cfg.MODEL.STUDENT.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY or name == DistilledDetector.__name__:
        known = sorted({known for known, _ in META_ARCH_REGISTRY} - {DistilledDetector.__name__})
        raise ValueError(f"MODEL.STUDENT.META_ARCHITECTURE: got {name!r}, expected one of {known}")
    student = META_ARCH_REGISTRY.get(name)(cfg)
    if not hasattr(student, "backbone"):
        raise ValueError(
            f"MODEL.STUDENT.META_ARCHITECTURE: {name!r} has no 'backbone' to take feature maps from"
        )
    return student


@contextmanager
def captured_backbone(backbone: nn.Module) -> Iterator[dict[str, Any]]:
    """Within this context, keep the backbone's padded input size (H, W) and its output."""
    captured: dict[str, Any] = {}

    def keep(inputs: Sequence[Tensor], features: dict[str, Tensor]) -> None:
        captured.update(padded_size=tuple(inputs[0].shape[-2:]), features=features)

    with watched(backbone, keep):
        yield captured
