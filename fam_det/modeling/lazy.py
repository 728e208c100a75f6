"""Functions for a LazyConfig: ``L(distill)(student=..., teacher=L(build_teacher)(...))``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from fam_det.config import default_config
from fam_det.core.checks import check_choice
from fam_det.modeling import DistilledDetector, FrozenTeacher
from fam_det.modeling import teacher as yacs_teacher
from fam_det.modeling.distilled_detector import distillation_arguments
from fam_det.modeling.lazy_detector import to_container

from detectron2.config import CfgNode


def build_teacher(
    *,
    config: str,
    student_format: str,
    weights: str = "auto",
    opts: Sequence[Any] = (),
    precision: str = "auto",
    input_scale: float = 1.0,
    cache: str = "",
    cache_gb: float = 10.0,
) -> FrozenTeacher:
    """Builds a teacher, its checkpoint not yet loaded, from the keys of ``MODEL.TEACHER``.

    Args:
        config: a name in Detectron2's model zoo or a file, ".yaml" or ".py".
        student_format: channel order of the student's images, "RGB" or "BGR".
        weights: its checkpoint, "auto" for that of the zoo or its config, "" for random weights.
        opts: KEY VALUE pairs for a ".yaml", "path.key=value" for a ".py".
        precision: as ``MODEL.TEACHER.PRECISION``.
        input_scale: as ``MODEL.TEACHER.INPUT_SCALE``.
        cache: as ``MODEL.TEACHER.CACHE``.
        cache_gb: as ``MODEL.TEACHER.CACHE_GB``.
    """
    cfg = default_config()
    cfg.MODEL.DEVICE, cfg.INPUT.FORMAT = "cpu", student_format
    node = cfg.MODEL.TEACHER
    node.CONFIG, node.WEIGHTS, node.PRECISION = config, weights, precision
    node.INPUT_SCALE, node.CACHE, node.CACHE_GB = float(input_scale), cache, float(cache_gb)
    node.OPTS = to_container(opts)
    return yacs_teacher.build_teacher(cfg)


def distill(
    *,
    student: nn.Module,
    teacher: FrozenTeacher,
    distiller: Mapping[str, Any] | None = None,
    inherit: Sequence[str] = (),
    classes: Sequence[int] = (),
    basis_images: int = 64,
    match: str = "same_level",
) -> DistilledDetector:
    """Builds the student with its teacher and a distiller.

    Args:
        student: a Detectron2 detector with a ``backbone``.
        teacher: from ``build_teacher``, or a ``FrozenTeacher`` of any detector.
        distiller: keys of ``MODEL.DISTILLER`` in lower case, such as ``{"levels": ["p3", "p4"],
            "fam": {"grid": 8}}``.
        inherit: as ``MODEL.TEACHER.INHERIT``.
        classes: as ``MODEL.TEACHER.CLASSES``.
        basis_images: as ``MODEL.TEACHER.BASIS_IMAGES``.
        match: as ``MODEL.TEACHER.MATCH``.

    Raises:
        ValueError: an unknown key or an impossible value; the message names it.
    """
    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"  # the trainer moves the whole model
    node = cfg.MODEL.TEACHER
    node.INHERIT, node.CLASSES, node.BASIS_IMAGES = (
        to_container(inherit),
        to_container(classes),
        basis_images,
    )
    node.MATCH = match
    for key, value in _flat(to_container(distiller or {}), cfg.MODEL.DISTILLER, "distiller"):
        cfg.merge_from_list([f"MODEL.DISTILLER.{key}", value])
    return DistilledDetector(**distillation_arguments(cfg, student, teacher))


def group_norm(channels: int) -> nn.GroupNorm:
    """Builds Detectron2's "GN", for dense heads of v0.6, which fail on the name in today's PyTorch.

    They try the name on one channel, which 32 groups do not divide; the main branch tries 32.
    """
    return nn.GroupNorm(min(32, channels), channels)


def _flat(options: Mapping[str, Any], node: CfgNode, path: str) -> Iterator[tuple[str, Any]]:
    """Yields options as keys of a node, such as "FAM.GRID"."""
    for name, value in options.items():
        key = name.upper()
        check_choice(path, name.lower(), [known.lower() for known in node])
        if isinstance(value, Mapping):
            for below, inner in _flat(value, node[key], f"{path}.{name}"):
                yield f"{key}.{below}", inner
        else:  # yacs takes no whole number for a float
            is_whole = isinstance(value, int) and isinstance(node[key], float)
            yield key, float(value) if is_whole else value
