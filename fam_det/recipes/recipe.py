"""Derives the config of a distillation, or of a teacher that is trained alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fam_det.config import DISTILLED, default_config
from fam_det.data.audit import list_names
from fam_det.data.loader import available_cores
from fam_det.files.config_file import merge_config
from fam_det.modeling.distilled_detector import build_student
from fam_det.recipes.data import CocoData, check_same_classes
from fam_det.recipes.distiller import distiller_overrides
from fam_det.recipes.overrides import Override, Overrides, build_config, find_node, to_yaml
from fam_det.recipes.schedule import solver_overrides
from fam_det.recipes.student import student_overrides, weights_note
from fam_det.recipes.teacher import TEMPLATES, Teacher, read_teacher, teacher_overrides

from detectron2 import model_zoo
from detectron2.config import CfgNode

TRAIN, VAL = "distill_train", "distill_val"  # names of the data sets
UNLABELLED = "distill_unlabelled"  # of images that only the teacher has labelled, or nobody
MAX_WORKERS = 8  # of a loader
# Detectron2 enlarges COCO's images from 480 pixels to 800; smaller ones are by the same factor.
COCO_SIDE, MULTIPLE = 480, 32  # pixels of the shorter side; sizes are rounded to a stride
# Keys and nodes that the student shares with its teacher, so that it can inherit its heads.
SIZES = (
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"),
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
)
SHARED = (
    *("MODEL.FPN", "MODEL.ANCHOR_GENERATOR", "TEST.DETECTIONS_PER_IMAGE"),
    *("INPUT.MIN_SIZE_TRAIN_SAMPLING", *SIZES),
)
SHARED_HEADS = {
    "GeneralizedRCNN": ("MODEL.RPN", "MODEL.ROI_HEADS", "MODEL.ROI_BOX_HEAD"),
    "RetinaNet": ("MODEL.RETINANET",),
}


@dataclass(frozen=True)
class Request:
    """A user's request."""

    teacher: str  # a model zoo name or a config file; for ``derive_teacher`` as a student
    student: str  # a network of torchvision, or "timm://NAME"; "" for any, or none
    train: CocoData
    val: CocoData
    output: str  # folder of the run
    unlabelled: CocoData | None = None  # to train on besides ``train``
    features_only: bool = False  # ignore the objects of ``unlabelled``, or of ``train`` without it
    device: str = "cpu"
    num_gpus: int = 1
    teacher_weights: str | None = None  # a checkpoint, "none", or None to find it
    student_weights: str | None = None  # a checkpoint, "none", or None for ImageNet's
    schedule: str = "1x"  # see fam_det.recipes.schedule
    batch: int = 8  # images an iteration
    inherit_heads: bool | None = None  # see fam_det.recipes.distiller
    size: Overrides = field(default_factory=dict)  # of the student, see fam_det.recipes.ladder
    size_note: str = ""  # why it was chosen
    options: list[str] = field(default_factory=list)  # KEY VALUE pairs, which override all else

    @property
    def trained(self) -> list[CocoData]:
        """Returns the data sets that are trained on."""
        return [self.train, *([self.unlabelled] if self.unlabelled else [])]


@dataclass(frozen=True)
class Recipe:
    """A config with comments and notes."""

    cfg: CfgNode
    reasons: dict[str, str]  # comments by key
    notes: list[str]  # lines on what was decided

    def to_yaml(self) -> str:
        """Returns the config as a file that ``tools/train_net.py`` runs."""
        notes = [" ".join(note.split()) for note in self.notes]  # class names may have newlines
        return "".join(f"# {note}\n" for note in notes) + to_yaml(self.cfg, self.reasons)


def derive(request: Request) -> Recipe:
    """Derives the config for a request; a ValueError names the flag that cannot be met."""
    teacher, masks, overrides = teacher_keys(request)
    overrides |= student_keys(request, teacher, overrides)
    overrides["MODEL.DISTILLER.WARMUP_ITERS"] = overrides["SOLVER.WARMUP_ITERS"]._replace(
        reason="as the learning rate"
    )
    cfg = build_config(overrides, request.options)
    student = _build_student(request.student, cfg)
    distiller, head_notes = distiller_overrides(
        student,
        teacher,
        request.train.class_names,
        request.inherit_heads,
        cfg.MODEL.TEACHER.MATCH,
        cfg.MODEL.TEACHER.INPUT_SCALE,
    )
    kind = "RetinaNet" if teacher.architecture == "RetinaNet" else _rcnn_name(masks)
    notes = [f"student {kind} {request.student}, teacher {request.teacher}"]
    notes += [request.size_note] if request.size_note else []
    notes += [_data_note(request), *head_notes, *weights_note(request.student_weights)]
    if "MODEL.TEACHER.INHERIT" in distiller and request.student_weights not in (None, "none"):
        notes.append("heads in --student-weights take precedence over the teacher's")
    return _build_recipe(overrides | distiller, request.options, notes)


def derive_teacher(request: Request) -> Recipe:
    """Derives the config that trains ``request.teacher``, the name of a backbone.

    It is the zoo's R-CNN with FPN, with masks if every object has one, and the student's rules for
    weights, schedule and classes. A ValueError names the flag that cannot be met.
    """
    name, weights, flag = request.teacher, request.teacher_weights, "--train-teacher"
    train, val, kind = request.train, request.val, "GeneralizedRCNN"
    check_same_classes(train, val)
    merge_config(template := default_config(), model_zoo.get_config_file(TEMPLATES[kind]))
    masks = train.has_masks and val.has_masks
    overrides = student_overrides(name, weights, kind, template.MODEL.FPN.IN_FEATURES, flag)
    overrides |= _class_overrides(request, masks) | _enlarged_sizes(template, train)
    overrides |= _run_overrides(request, kind)
    notes = [f"teacher {_rcnn_name(masks)} {name}, trained alone", _data_note(request)]
    notes += weights_note(weights, flag)
    return _build_recipe(overrides, request.options, notes, template)


def _enlarged_sizes(template: CfgNode, data: CocoData) -> Overrides:
    """Returns the keys that enlarge images smaller than COCO's; empty for others."""
    ratio, node = min(data.size) / COCO_SIDE, template.INPUT
    if ratio >= 1:
        return {}
    reason = f"enlarged as COCO's are, {node.MIN_SIZE_TEST} / {COCO_SIDE}"
    sizes = sorted({_round_side(ratio * x) for x in node.MIN_SIZE_TRAIN})
    return {
        "INPUT.MIN_SIZE_TRAIN": Override(sizes, reason),
        "INPUT.MIN_SIZE_TEST": Override(_round_side(ratio * node.MIN_SIZE_TEST)),
    }


def _round_side(side: float) -> int:
    return max(round(side / MULTIPLE), 1) * MULTIPLE


def _build_recipe(
    overrides: Overrides, options: Sequence[str], notes: list[str], base: CfgNode | None = None
) -> Recipe:
    reasons = {key: override.reason for key, override in overrides.items()}
    reasons |= dict.fromkeys(options[::2], "given")
    return Recipe(build_config(overrides, options, base), reasons, notes)


def teacher_keys(request: Request) -> tuple[Teacher, bool, Overrides]:
    """Returns the teacher, whether its student has masks, and the keys that all students share.

    Raises a ValueError that names the flag for data or a teacher that cannot be used.
    """
    check_same_classes(request.train, request.val)
    overrides = teacher_overrides(request.teacher, request.teacher_weights)
    teacher = read_teacher(build_config(overrides, request.options))
    masks = teacher.has_masks and all(x.has_masks for x in (*request.trained, request.val))
    shared = [*SHARED, *SHARED_HEADS[teacher.architecture]]
    shared += ["MODEL.ROI_MASK_HEAD"] if masks else []
    overrides |= {key: Override(find_node(teacher.template, key)) for key in shared}
    overrides |= _detector_overrides(teacher, request, masks)
    return teacher, masks, overrides | _run_overrides(request, teacher.architecture)


def student_keys(request: Request, teacher: Teacher, base: Overrides) -> Overrides:
    """Returns the keys of the student's backbone and size, in addition to the shared ones.

    A thin FPN does not change the inner widths of the heads. If the student's images are smaller
    than the teacher's, so are its sizes.
    """
    template = teacher.template
    overrides = student_overrides(
        request.student,
        request.student_weights,
        teacher.architecture,
        list(template.MODEL.FPN.IN_FEATURES),
    )
    model = build_config(base | overrides | request.size, request.options).MODEL
    is_thin = model.FPN.OUT_CHANNELS != template.MODEL.FPN.OUT_CHANNELS
    if is_thin and teacher.architecture != "RetinaNet":
        reason = "the teacher's, -1 would be the FPN's width"
        overrides["MODEL.RPN.CONV_DIMS"] = Override(teacher.rpn_widths, reason)
    if 1 < (scale := model.TEACHER.INPUT_SCALE) < float("inf"):
        digits: dict[str, int | None] = dict.fromkeys(SIZES)  # None rounds to whole pixels
        if model.TEACHER.MATCH != "same_scale":
            digits["MODEL.ANCHOR_GENERATOR.SIZES"] = 2
        for key, places in digits.items():
            value = find_node(template, key)
            overrides[key] = Override(_divide(value, scale, places), f"the teacher has {value}")
    return overrides | request.size


def _divide(value: Any, scale: float, digits: int | None) -> Any:
    """Divides one or more lengths, and rounds."""
    if isinstance(value, list | tuple):
        return [_divide(x, scale, digits) for x in value]
    return round(value / scale, digits)


def _detector_overrides(teacher: Teacher, request: Request, masks: bool) -> Overrides:
    overrides = {
        "MODEL.META_ARCHITECTURE": Override(DISTILLED),
        "MODEL.STUDENT.META_ARCHITECTURE": Override(
            teacher.architecture, "as the teacher is dense"
        ),
    }
    if teacher.architecture == "RetinaNet":
        return overrides | {"MODEL.RETINANET.NUM_CLASSES": _num_classes(request.train)}
    overrides["MODEL.ROI_HEADS.NAME"] = Override("StandardROIHeads")
    overrides |= _class_overrides(request, masks)
    if teacher.template.MODEL.ROI_HEADS.NAME == "CascadeROIHeads":
        overrides["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = Override(False)
    return overrides


def _class_overrides(request: Request, masks: bool) -> Overrides:
    """Returns the keys of an R-CNN's classes and masks, by the data."""
    overrides = {
        "MODEL.ROI_HEADS.NUM_CLASSES": _num_classes(request.train),
        "MODEL.MASK_ON": Override(masks, "every object has a mask" if masks else ""),
    }
    if masks and any(data.has_bitmasks for data in request.trained):
        overrides["INPUT.MASK_FORMAT"] = Override("bitmask", "the data has run-length masks")
    return overrides


def _num_classes(data: CocoData) -> Override:
    return Override(len(data.class_names), f"classes: {list_names(data.class_names)}")


def _run_overrides(request: Request, architecture: str) -> Overrides:
    """Returns the keys of the data, the machine, the output folder and the schedule."""
    data = {TRAIN: request.train, VAL: request.val}
    data |= {UNLABELLED: request.unlabelled} if request.unlabelled else {}
    trained = [name for name in data if name != VAL]
    cores = available_cores() // request.num_gpus
    overrides = {
        "DATASETS.COCO": Override([[name, x.annotations, x.images] for name, x in data.items()]),
        "DATASETS.TRAIN": Override(trained),
        "DATASETS.TEST": Override([VAL]),
        "DATALOADER.NUM_WORKERS": Override(
            min(max(cores, 1), MAX_WORKERS), "one per CPU core of the machine that wrote this"
        ),
        "MODEL.DEVICE": Override(request.device),
        "OUTPUT_DIR": Override(request.output),
    }
    if request.unlabelled:
        overrides["DATASETS.TRAIN_SHARES"] = Override([0.5, 0.5], "of the images seen")
    if request.features_only:
        overrides["DATASETS.UNLABELLED"] = Override(trained[-1:], "--features-only")
    if any(x.is_labelled_by_teacher for x in request.trained):
        overrides["DATASETS.IGNORE_CROWD"] = Override(True, "uncertain detections of the teacher")
    return overrides | solver_overrides(
        request.schedule,
        architecture,
        num_images=sum(x.num_trained for x in request.trained),
        num_validated=request.val.num_images,
        batch=request.batch,
    )


def _build_student(name: str, cfg: CfgNode) -> Any:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    try:
        return build_student(cfg)
    except (AssertionError, ImportError, KeyError, ValueError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"--student: {name}: cannot be built: {kind}{error}") from error


def _rcnn_name(masks: bool) -> str:
    return "Mask R-CNN" if masks else "Faster R-CNN"


def _data_note(request: Request) -> str:
    return (
        f"classes: {list_names(request.train.class_names)}; images with objects to train on: "
        f"{request.train.num_trained}; images to validate on: {request.val.num_images}"
    )
