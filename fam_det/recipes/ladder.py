"""The ladder: student configs from the largest to the smallest, each one step cheaper."""

import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

from fam_det.modeling.backbones.timm import PREFIX as TIMM
from fam_det.recipes.overrides import Override, Overrides, build_config, find_node
from fam_det.recipes.recipe import Request, student_keys
from fam_det.recipes.teacher import Teacher

from detectron2.config import CfgNode

RESNETS = (101, 50, 34, 18)
MOBILENET = "mobilenet_v2"
# A seventh less and a fifth of MobileNetV2's multiply-adds.
MOBILENETS_V3 = (f"{TIMM}mobilenetv3_large_100", f"{TIMM}mobilenetv3_small_100")
WIDTH_MULTS = (0.5, 0.35)  # of a MobileNetV2 from random weights
DIVISORS = (1, 2, 4, 8, 16)  # of the FPN's width
MIN_WIDTH = 8  # channels
# In channels; a thinner FPN comes after the first small images: on NEU-DET 8 channels cost 4 AP,
# and four ninths of the pixels, which save nearly half of the time, cost nothing.
LAST_WIDTH = 16
GROUPS = 32  # of Detectron2's GroupNorm
PROPOSALS = (300, 100)
# So many for each object of the fullest image, and at least so many: on NEU-DET, where it has 9,
# 30 proposals in place of 100 cost 0.8 AP and save 30 % of the time.
PROPOSALS_PER_OBJECT, MIN_PROPOSALS = 3, 20
NARROW = 4  # divisor of the hidden width of an RPN and a mask head, which inherit no weights then
MIN_HIDDEN = 64  # channels; fewer saved 3 to 10 % of a small detector's time
SCALES = ((1.5, "four ninths"), (2.0, "a quarter"))  # of the teacher's sides over the student's


class Rung(NamedTuple):
    """A student that could be trained."""

    student: str  # as --student
    keys: Overrides  # in addition to those of --student
    cfg: CfgNode  # everything except the distiller

    @property
    def name(self) -> str:
        """Returns the student with its width multiplier."""
        width = self.cfg.MODEL.MOBILENETV2.WIDTH_MULT
        return f"{self.student} x {width:g}" if self.student == MOBILENET else self.student


def build_ladder(
    request: Request, teacher: Teacher, base: Overrides, without: Collection[str] = ()
) -> list[Rung]:
    """Returns students for a request, the largest first.

    Each is one step cheaper than the previous one: first a thinner FPN, into which the teacher's
    heads can be folded, and fewer proposals, then smaller backbones, a still thinner FPN, and last
    what costs most AP: few proposals, fewer still where images have few objects, a narrow RPN and
    small images. Steps without an effect, as
    the user's own keys override them, are left out.

    Args:
        request: of a user, with "" for any student.
        teacher: of the request.
        base: the keys that all of its students share.
        without: students to leave out.
    """
    ladder: list[Rung] = []
    for student, keys in _steps(request, teacher, without):
        overrides = student_keys(replace(request, student=student, size=keys), teacher, base)
        cfg = build_config(base | overrides, request.options)
        if not ladder or cfg != ladder[-1].cfg:
            ladder.append(Rung(student, keys, cfg))
    return ladder


def _steps(
    request: Request, teacher: Teacher, without: Collection[str]
) -> Iterator[tuple[str, Overrides]]:
    """Yields the name and keys of each student."""
    widths = _thin_fpns(teacher)
    quarter = min(DIVISORS.index(4), len(widths) - 1)
    backbones: list[tuple[str, Overrides]] = [(request.student, {})]
    if not request.student:
        candidates = _backbones(teacher, request.student_weights)
        backbones = [x for x in candidates if x[0] not in without]
        if not backbones:
            return
        widths[0] = widths[min(1, quarter)]  # the teacher's backbone with its FPN is no student
    few, fewer, fewest, sampled, narrow = _cheaper_heads(teacher, request.train.most_objects)
    name, keys = backbones[0]
    for width in widths[: quarter + 1]:
        yield name, keys | width
    for name, keys in backbones:
        yield name, keys | widths[quarter] | few
    # From the smallest backbone on, each step is added to the previous ones.
    thinner, smaller = widths[quarter + 1 :], _small_images(request, teacher)
    split = sum(width["MODEL.FPN.OUT_CHANNELS"].value >= LAST_WIDTH for width in thinner)
    steps = [sampled, *thinner[:split], fewer, narrow]
    steps += [*smaller[:1], fewest, *thinner[split:], *smaller[1:]]
    keys = keys | widths[quarter] | few
    for step in steps:
        keys = keys | step
        yield name, keys


def _backbones(teacher: Teacher, weights: str | None) -> list[tuple[str, Overrides]]:
    """Returns backbones with keys, from the depth of the teacher's down."""
    model = teacher.template.MODEL
    depth = model.RESNETS.DEPTH if "resnet" in model.BACKBONE.NAME else 0
    depth = RESNETS[0] if teacher.in_python else depth
    backbones: list[tuple[str, Overrides]] = [(f"resnet{x}", {}) for x in RESNETS if x <= depth]
    backbones.append((MOBILENET, {}))
    if weights == "none":  # ImageNet weights exist only for a width of 1
        key, reason = "MODEL.MOBILENETV2.WIDTH_MULT", "from random weights, as there are no others"
        backbones += [(MOBILENET, {key: Override(x, reason)}) for x in WIDTH_MULTS]
    elif importlib.util.find_spec("timm"):
        backbones += [(name, {}) for name in MOBILENETS_V3]
    return backbones


def _thin_fpns(teacher: Teacher) -> list[Overrides]:
    """Returns the keys of thinner and thinner FPNs; the heads keep the teacher's inner widths."""
    key, node = "MODEL.FPN.OUT_CHANNELS", teacher.template.MODEL.FPN
    width, multiple = node.OUT_CHANNELS, GROUPS if node.NORM == "GN" else 1
    return [
        {key: Override(width // x, f"the teacher has {width}" if x > 1 else "")}
        for x in DIVISORS
        if width % (x * multiple) == 0 and (x == 1 or width // x >= MIN_WIDTH)
    ]


def _cheaper_heads(teacher: Teacher, most_objects: int) -> tuple[Overrides, ...]:
    """Returns the keys of an R-CNN's steps; empty for a dense detector.

    The steps are three numbers of proposals, empty if the teacher or the previous step has no more,
    ROIAlign with one sample per bin instead of up to 16, and a narrow RPN and mask head.
    """
    if teacher.architecture != "GeneralizedRCNN":
        return {}, {}, {}, {}, {}
    model, narrower = teacher.template.MODEL, "narrower than the teacher's"
    per_level, per_image = model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST
    few, fewer = (
        {
            "MODEL.RPN.PRE_NMS_TOPK_TEST": Override(
                min(count, per_level), f"a level; the teacher has {per_level}"
            ),
            "MODEL.RPN.POST_NMS_TOPK_TEST": Override(count, f"the teacher has {per_image}"),
        }
        if count < per_image
        else {}
        for count in PROPOSALS
    )
    least = max(PROPOSALS_PER_OBJECT * most_objects, MIN_PROPOSALS)
    reason = f"objects of the fullest image: {most_objects}"
    is_fewest = most_objects and least < min(PROPOSALS[-1], per_image)
    fewest = {"MODEL.RPN.POST_NMS_TOPK_TEST": Override(least, reason)} if is_fewest else {}
    sampled = {"MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": Override(1, "one sample a bin")}
    widths = [_narrow(x) for x in teacher.rpn_widths]
    narrow = {"MODEL.RPN.CONV_DIMS": Override(widths, narrower)}
    if teacher.has_masks:
        width = _narrow(model.ROI_MASK_HEAD.CONV_DIM)
        narrow["MODEL.ROI_MASK_HEAD.CONV_DIM"] = Override(width, narrower)
    return few, fewer, fewest, sampled, narrow


def _narrow(width: int) -> int:
    return min(max(width // NARROW, MIN_HIDDEN), width)


def _small_images(request: Request, teacher: Teacher) -> list[Overrides]:
    """Returns the keys of smaller and smaller images for the student alone."""
    key = "INPUT.MIN_SIZE_TEST"
    if key in request.options or not find_node(teacher.template, key):  # 0 for no resizing
        return []
    return [
        {"MODEL.TEACHER.INPUT_SCALE": Override(scale, f"the student sees {share} of the pixels")}
        for scale, share in SCALES
    ]
