"""The whole config of a distillation, derived from teacher, student and data."""

from dataclasses import dataclass, field
from typing import Any

from fam_det.modeling.distilled_detector import build_student
from fam_det.recipes.config_file import to_yaml
from fam_det.recipes.data import CocoData, check_same_classes, list_names
from fam_det.recipes.heads import head_choices
from fam_det.recipes.levels import shared_levels
from fam_det.recipes.overrides import (
    Choice,
    Choices,
    apply_choices,
    default_config,
    merge_options,
)
from fam_det.recipes.schedule import solver_choices
from fam_det.recipes.student import student_choices
from fam_det.recipes.teacher import ZOO_EXAMPLE, Teacher, read_teacher, teacher_choices

from detectron2.config import CfgNode

TRAIN, VAL = "distill_train", "distill_val"  # names of the data sets
# What the student takes over from its teacher, and so can take the weights of its heads: keys, and
# nodes with all of their keys.
SHARED = (
    *("MODEL.FPN", "MODEL.ANCHOR_GENERATOR", "TEST.DETECTIONS_PER_IMAGE"),
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.MAX_SIZE_TRAIN"),
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
)
RCNN = ("MODEL.RPN", "MODEL.ROI_HEADS", "MODEL.ROI_BOX_HEAD")


@dataclass(frozen=True)
class Request:
    """What the user has said.

    Attributes:
        teacher: a model zoo name or a config file.
        student: a network of torchvision, or "timm://NAME".
        train: data to train on.
        val: data to evaluate on.
        output: folder of the run.
        device: "cuda" or "cpu".
        teacher_weights: a checkpoint, "none", or None to find it.
        student_weights: a checkpoint, "none", or None for ImageNet's.
        schedule: see ``fam_det.recipes.schedule``.
        batch: images an iteration.
        inherit_heads: see ``fam_det.recipes.heads``.
        options: KEY VALUE pairs, which have the last word.
    """

    teacher: str
    student: str
    train: CocoData
    val: CocoData
    output: str
    device: str = "cpu"
    teacher_weights: str | None = None
    student_weights: str | None = None
    schedule: str = "1x"
    batch: int = 8
    inherit_heads: bool | None = None
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recipe:
    """A config and what to say about it.

    Attributes:
        cfg: the whole config.
        reasons: comments by key.
        notes: lines on what was decided.
    """

    cfg: CfgNode
    reasons: dict[str, str]
    notes: list[str]

    def to_yaml(self) -> str:
        """The config as a file that ``tools/train_net.py`` runs."""
        head = "".join(f"# {note}\n" for note in self.notes)
        return head + to_yaml(self.cfg, default_config(), self.reasons)


class _Draft:
    """A config that grows by choices; the user's own pairs stay on top."""

    def __init__(self, options: list[str]) -> None:
        self.cfg = default_config()
        self.reasons: dict[str, str] = {}
        self._options = options
        merge_options(self.cfg, options)

    def add(self, choices: Choices) -> None:
        apply_choices(self.cfg, choices)
        merge_options(self.cfg, self._options)
        self.reasons.update({key: choice.reason for key, choice in choices.items()})
        self.reasons.update(dict.fromkeys(self._options[::2], "given"))


def derive(request: Request) -> Recipe:
    """The config for a request.

    Raises:
        ValueError: a request that cannot be met; the message names the flag.
    """
    train, val = request.train, request.val
    check_same_classes(train, val)
    draft = _Draft(request.options)
    draft.add(teacher_choices(request.teacher, request.teacher_weights))
    teacher = read_teacher(draft.cfg)
    masks = teacher.has_masks and train.has_masks and val.has_masks
    draft.add(_shared_choices(teacher, masks))
    draft.add(_detector_choices(teacher, train, masks))
    draft.add(_backbone_choices(request, teacher))
    draft.add(_run_choices(request))
    draft.add(_solver_choices(request, teacher))
    student = _build_student(request.student, draft.cfg)
    levels = _levels(student, teacher)
    heads, line = head_choices(student, teacher, train.class_names, request.inherit_heads)
    draft.add({"MODEL.DISTILLER.LEVELS": _level_choice(levels, "MODEL.TEACHER.INHERIT" in heads)})
    draft.add(heads)
    notes = [_pair(request, teacher, masks), _data(train, val), line]
    return Recipe(draft.cfg, draft.reasons, notes)


def _shared_choices(teacher: Teacher, masks: bool) -> Choices:
    """The teacher's own values of what student and teacher share."""
    heads = RCNN if teacher.student_architecture == "GeneralizedRCNN" else ("MODEL.RETINANET",)
    choices: Choices = {}
    for key in (*SHARED, *heads, *(["MODEL.ROI_MASK_HEAD"] if masks else [])):
        value: Any = teacher.template
        for part in key.split("."):
            value = value[part]
        if isinstance(value, CfgNode):
            choices |= {f"{key}.{name}": Choice(child) for name, child in value.items()}
        else:
            choices[key] = Choice(value)
    return choices


def _detector_choices(teacher: Teacher, train: CocoData, masks: bool) -> Choices:
    """What the student detects."""
    classes = Choice(len(train.class_names), f"classes: {list_names(train.class_names)}")
    if teacher.student_architecture == "RetinaNet":
        return {
            "MODEL.META_ARCHITECTURE": Choice("DistilledDetector"),
            "MODEL.STUDENT.META_ARCHITECTURE": Choice("RetinaNet", "as the teacher is dense"),
            "MODEL.RETINANET.NUM_CLASSES": classes,
        }
    choices = {
        "MODEL.META_ARCHITECTURE": Choice("DistilledDetector"),
        "MODEL.STUDENT.META_ARCHITECTURE": Choice("GeneralizedRCNN"),
        "MODEL.ROI_HEADS.NAME": Choice("StandardROIHeads"),
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        "MODEL.MASK_ON": Choice(masks, "teacher and data have masks" if masks else ""),
    }
    if teacher.template.MODEL.ROI_HEADS.NAME == "CascadeROIHeads":
        choices["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = Choice(False)
    if masks and train.has_bitmasks:
        choices["INPUT.MASK_FORMAT"] = Choice("bitmask", "the data has run-length masks")
    return choices


def _backbone_choices(request: Request, teacher: Teacher) -> Choices:
    inputs = list(teacher.template.MODEL.FPN.IN_FEATURES)
    architecture = teacher.student_architecture
    return student_choices(request.student, request.student_weights, architecture, inputs)


def _solver_choices(request: Request, teacher: Teacher) -> Choices:
    return solver_choices(
        request.schedule,
        teacher.student_architecture,
        num_images=request.train.num_trained,
        num_validated=request.val.num_images,
        batch=request.batch,
    )


def _run_choices(request: Request) -> Choices:
    train, val = request.train, request.val
    entries = [[TRAIN, train.annotations, train.images], [VAL, val.annotations, val.images]]
    return {
        "DATASETS.COCO": Choice(entries),
        "DATASETS.TRAIN": Choice([TRAIN]),
        "DATASETS.TEST": Choice([VAL]),
        "MODEL.DEVICE": Choice(request.device),
        "OUTPUT_DIR": Choice(request.output),
    }


def _build_student(name: str, cfg: CfgNode) -> Any:
    """The student on the CPU; raises a ValueError for a network that cannot be one."""
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    try:
        return build_student(cfg)
    except (AssertionError, ImportError, KeyError, ValueError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--student: {name}: cannot be built: {kind}{error}") from error


def _levels(student: Any, teacher: Teacher) -> list[str]:
    try:
        return shared_levels(student.backbone, teacher.detector.backbone)
    except ValueError as error:
        raise ValueError(
            f"--teacher: {teacher.name}: {error}; take one with an FPN, such as {ZOO_EXAMPLE}"
        ) from error


def _level_choice(levels: list[str], inherited: bool) -> Choice:
    """All levels where the teacher's heads read them; otherwise without p2, the costliest."""
    if inherited or "p2" not in levels:
        return Choice(levels, "those that both have")
    return Choice([x for x in levels if x != "p2"], "those that both have but p2, the costliest")


def _pair(request: Request, teacher: Teacher, masks: bool) -> str:
    rcnn = "Mask R-CNN" if masks else "Faster R-CNN"
    kind = "RetinaNet" if teacher.student_architecture == "RetinaNet" else rcnn
    return f"student {kind} {request.student}, teacher {request.teacher}"


def _data(train: CocoData, val: CocoData) -> str:
    return (
        f"classes: {list_names(train.class_names)}; images with objects to train on: "
        f"{train.num_trained}; images to validate on: {val.num_images}"
    )
