"""Reads the facts about a teacher from which the student's config is derived.

The teacher is built for that, with random weights.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fam_det.data.audit import warn
from fam_det.data.coco import find_categories
from fam_det.modeling.inherit import num_classes
from fam_det.modeling.lazy_detector import lazy_datasets, read_config
from fam_det.modeling.teacher import build_teacher_detector, find_config, teacher_config
from fam_det.recipes.overrides import Override, Overrides, given_weights

from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN

FINAL = "model_final.pth"  # in the folder of a run, with its config.yaml
ZOO_EXAMPLE = "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml"
# A student of a LazyConfig's teacher has the anchors, heads and image sizes of these.
TEMPLATES = {
    "GeneralizedRCNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}


@dataclass(frozen=True)
class Teacher:
    """Facts about a teacher for the student's config."""

    name: str  # of its config
    detector: Any  # with random weights
    architecture: str  # of its students, "GeneralizedRCNN" or "RetinaNet"
    class_names: tuple[str, ...] | None  # None if unknown
    template: CfgNode  # config with the FPN, anchors, heads and image sizes that students share
    in_python: bool  # its config is a LazyConfig; the template is one of TEMPLATES then

    @property
    def num_classes(self) -> int:
        """Returns the number of its classes."""
        return num_classes(self.detector)

    @property
    def rpn_widths(self) -> list[int]:
        """Returns the channels of the RPN's hidden maps, for a student's ``CONV_DIMS``."""
        model = self.template.MODEL
        return [model.FPN.OUT_CHANNELS if x == -1 else x for x in model.RPN.CONV_DIMS]

    @property
    def has_masks(self) -> bool:
        """Returns whether it segments instances."""
        return bool(getattr(getattr(self.detector, "roi_heads", None), "mask_on", False))


def teacher_overrides(name: str, weights: str | None) -> Overrides:
    """Returns the keys of the teacher's config and checkpoint, as in a ``Request``."""
    if Path(name).is_dir():  # the folder of a run
        name = str(Path(name) / "config.yaml")
    try:
        path, zoo_weights = find_config(name)
    except ValueError as error:
        raise ValueError(
            f"--teacher: {name}: neither a file nor a name in Detectron2's model zoo"
            + _close_names(name)
        ) from error
    return {
        "MODEL.TEACHER.CONFIG": Override(name),
        "MODEL.TEACHER.WEIGHTS": _weights(weights, path, zoo_weights),
    }


def _close_names(name: str) -> str:
    """Returns "; close names: ..." of YAML configs with a checkpoint in the model zoo."""
    root = Path(model_zoo.__file__).parent / "configs"
    names = [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*.yaml"))]
    known = {Path(x).stem: x for x in names if find_config(x)[1]}
    close = [known[x] for x in get_close_matches(Path(name).stem, known, n=3, cutoff=0.5)]
    return f"; close names: {', '.join(close)}" if close else ""


def _weights(given: str | None, path: str, zoo_weights: str | None) -> Override:
    if given is not None:
        return given_weights("--teacher-weights", given)
    if zoo_weights is not None:
        return Override("auto", "the model zoo's")
    final = Path(path).with_name(FINAL)
    if final.is_file():
        return Override(str(final), "found beside its config")
    raise ValueError(
        f"--teacher-weights: missing, and there is no {FINAL} beside {path}; give the teacher's "
        "checkpoint, or 'none' for random weights, to try a setup"
    )


def read_teacher(cfg: CfgNode) -> Teacher:
    """Builds the teacher of ``cfg.MODEL.TEACHER`` on the CPU."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    name = cfg.MODEL.TEACHER.CONFIG
    in_python = name.endswith(".py")
    try:
        detector = build_teacher_detector(cfg).detector
        architecture = _student_architecture(detector)
        if in_python:
            template = model_zoo.get_config(TEMPLATES[architecture])
            path, _ = find_config(name)
            data = lazy_datasets(read_config(path, cfg.MODEL.TEACHER.OPTS, "MODEL.TEACHER.OPTS"))
        else:
            template, _ = teacher_config(cfg)
            data = template.clone()
        if not template.MODEL.FPN.IN_FEATURES:
            raise ValueError("has no FPN, expected one, such as that of " + ZOO_EXAMPLE)
        data.DATASETS.TEST = ()  # its test set may have other classes
        names = tuple(str(x["name"]) for x in find_categories(data)) or None
    except Exception as error:  # a config in Python may raise anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--teacher: {name}: {kind}{error}") from error
    files = [file for dataset, file, _ in data.DATASETS.COCO if dataset in data.DATASETS.TRAIN]
    if files and not names:
        warn(
            f"--teacher: its training data {files[0]} cannot be read from this folder: its "
            "classes have no names"
        )
    return Teacher(name, detector, architecture, names, template, in_python)


def _student_architecture(detector: Any) -> str:
    if isinstance(detector, GeneralizedRCNN):
        return "GeneralizedRCNN"
    if isinstance(detector, DenseDetector):
        return "RetinaNet"
    raise ValueError(
        f"is a {type(detector).__name__}, expected a Faster, Mask, Cascade or Keypoint R-CNN, a "
        "RetinaNet or an FCOS; for others write a config, see docs/detectors.md"
    )
