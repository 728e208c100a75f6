"""The loss through the teacher's heads, against loops over anchors, boxes and classes."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fam_det.modeling.head_loss import MAX_BOXES, head_losses
from fam_det.modeling.levels import valid_sizes
from tests.modeling.small_detector import (
    STUDENTS,
    images,
    in_training,
    small_config,
    with_teacher_images,
)

from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
Maps = dict[str, Tensor]
SIZES = [(96, 64), (64, 64)]
WEIGHT = ("MODEL.DISTILLER.NAME", "LayerToLayerDistiller", "MODEL.DISTILLER.HEAD_WEIGHT", "2.0")


@pytest.fixture(params=list(STUDENTS))
def teacher(request: pytest.FixtureRequest) -> Any:
    cfg = small_config(*STUDENTS[request.param])
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = request.param
    detector = build_model(cfg).double().eval().requires_grad_(False)
    for name, x in detector.named_parameters():  # or nothing would be found
        if "cls_score.weight" in name or "objectness" in name:
            torch.nn.init.normal_(x, std=0.3)
    return detector


def maps(detector: Any, seed: int) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            *(2, shape.channels, 96 // shape.stride, 64 // shape.stride),
            generator=generator,
            dtype=torch.float64,
        )
        for name, shape in detector.backbone.output_shape().items()
        if 64 // shape.stride > 0
    } | {"p6": torch.randn(2, 16, 2, 1, generator=generator, dtype=torch.float64)}


def losses_of(teacher: Any, own: Maps, others: Maps, scale: float = 1.0) -> dict[str, float]:
    strides = {name: shape.stride for name, shape in teacher.backbone.output_shape().items()}
    cells = {name: valid_sizes(SIZES, stride) for name, stride in strides.items()}
    given = {
        "teacher_features": others,
        "valid_sizes": cells,
        "image_sizes": SIZES,
        "input_scale": scale,
    }
    return {name: x.item() for name, x in head_losses(teacher, own, **given).items()}


def test_equal_maps_lose_nothing(teacher: Any) -> None:
    own = maps(teacher, 0)
    losses = losses_of(teacher, own, own)
    assert len(losses) == (4 if hasattr(teacher, "roi_heads") else 2)
    assert all(abs(x) < 1e-5 for x in losses.values())


def bernoulli(p: float, q: float) -> float:
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_anchors_as_a_loop(teacher: Any) -> None:
    own, others = maps(teacher, 0), maps(teacher, 1)
    is_dense = not hasattr(teacher, "roi_heads")
    head = teacher.head if is_dense else teacher.proposal_generator.rpn_head
    names = teacher.head_in_features if is_dense else teacher.proposal_generator.in_features
    total = divergence = distance = 0.0
    outputs = [x for side in (own, others) for x in head([side[name] for name in names])]
    for name, q, b, p, a in zip(names, *outputs, strict=True):
        anchors = a.shape[1] // 4
        stride = teacher.backbone.output_shape()[name].stride
        for n, (height, width) in enumerate(SIZES):
            for y in range(math.ceil(height / stride)):
                for x in range(math.ceil(width / stride)):
                    deltas = (a - b)[n, :, y, x].view(anchors, 4).abs().sum(1).tolist()
                    for anchor in range(anchors):
                        score = p[n, :, y, x].view(anchors, -1)[anchor].sigmoid().tolist()
                        other = q[n, :, y, x].view(anchors, -1)[anchor].sigmoid().tolist()
                        total += sum(score)
                        divergence += sum(map(bernoulli, score, other))
                        distance += sum(score) * deltas[anchor]
    losses = losses_of(teacher, own, others)
    assert total > 1
    assert losses["head_anchor_classes"] == pytest.approx(divergence / total, rel=1e-9)
    assert losses["head_anchor_deltas"] == pytest.approx(distance / total, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("teacher", ["GeneralizedRCNN"], indirect=True)
def test_boxes_as_a_loop(teacher: Any, scale: float) -> None:
    own, others = maps(teacher, 0), maps(teacher, 1)
    batch = ImageList(torch.zeros(2, 3, 96, 64), SIZES)
    rpn = copy.deepcopy(teacher.proposal_generator).float()  # Detectron2's NMS is float32
    for anchors in rpn.anchor_generator.cell_anchors:  # about 0
        anchors /= scale
    proposals, _ = rpn(batch, {name: x.float() for name, x in others.items()})
    heads, divergence, distance, total, count = teacher.roi_heads, 0.0, 0.0, 0.0, 0
    for n, found in enumerate(proposals):
        boxes = [found.proposal_boxes[:MAX_BOXES]]
        count += len(boxes[0])
        outputs = []
        for side in (own, others):
            features = [side[name][n : n + 1] for name in heads.box_in_features]
            pooled = heads.box_pooler(features, boxes)
            outputs += heads.box_predictor(heads.box_head(pooled))
        for q, b, p, a in zip(*outputs, strict=True):
            q, p = q.softmax(0), p.softmax(0)
            divergence += sum(
                x * math.log(x / y) for x, y in zip(p.tolist(), q.tolist(), strict=True)
            )
            sums = (a - b).view(-1, 4).abs().sum(1).tolist()
            for score, apart in zip(p[:-1].tolist(), sums, strict=True):
                total += score
                distance += score * apart
    losses = losses_of(teacher, own, others, scale)
    assert count > 2
    assert losses["head_box_classes"] == pytest.approx(divergence / count, rel=1e-4)
    assert losses["head_box_deltas"] == pytest.approx(distance / max(total, 1), rel=1e-4)


@pytest.mark.parametrize("scale", ["1.0", "2.0"])
def test_it_is_added_by_its_weight_and_reaches_the_student(
    build: Build, storage: EventStorage, scale: str
) -> None:
    opts = ("MODEL.DISTILLER.LOSS_WEIGHT", "0.0", "MODEL.TEACHER.INPUT_SCALE", scale)
    model = in_training(build(*WEIGHT, *opts))
    model.warmup_iters = 1
    losses = model(with_teacher_images((64, 96), (96, 64), scale=float(scale)))
    named = {name: value for name, (value, _) in storage.latest().items()}
    heads = [value for name, value in named.items() if "/loss_head_" in name]
    assert len(heads) == 4
    assert losses["loss_distill"].item() == pytest.approx(2 * sum(heads), rel=1e-5)
    losses["loss_distill"].backward()
    assert model.backbone.fpn_output2.weight.grad.abs().sum() > 0
    assert all(x.grad is None for x in model.teacher.parameters())


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ("MODEL.DISTILLER.LEVELS", "['p3', 'p4']"),
            r"HEAD_WEIGHT: .* heads read p2, the distilled",
        ),
        (
            (
                "MODEL.TEACHER.OPTS",
                "['MODEL.ROI_HEADS.NAME', 'CascadeROIHeads', "
                "'MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG', True]",
            ),
            r"HEAD_WEIGHT: the teacher is GeneralizedRCNN, RPN, CascadeROIHeads, expected a Reti",
        ),
        (
            (
                "MODEL.TEACHER.OPTS",
                "['MODEL.PROPOSAL_GENERATOR.NAME', 'RRPN', "
                "'MODEL.ANCHOR_GENERATOR.NAME', 'RotatedAnchorGenerator', "
                "'MODEL.RPN.BBOX_REG_WEIGHTS', (1.0, 1.0, 1.0, 1.0, 1.0)]",
            ),
            r"HEAD_WEIGHT: the teacher is GeneralizedRCNN, RRPN, StandardROIHeads, expected a Ret",
        ),
        (
            ("MODEL.TEACHER.INPUT_SCALE", "2.0", "MODEL.TEACHER.MATCH", "same_scale"),
            "MODEL.TEACHER.MATCH: got 'same_scale', expected 'same_level' with",
        ),
        (("MODEL.DISTILLER.HEAD_WEIGHT", "-1.0"), r"HEAD_WEIGHT: got -1.0, expected 0 or more"),
    ],
)
def test_what_cannot_be_compared_is_said(build: Build, opts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*WEIGHT, *opts)


def test_a_method_that_hands_on_no_maps_ignores_it(
    build: Build, storage: EventStorage, caplog: pytest.LogCaptureFixture
) -> None:
    model = in_training(build(*WEIGHT, "MODEL.DISTILLER.NAME", "FGFIDistiller"))
    assert "MODEL.DISTILLER.HEAD_WEIGHT: no effect on FGFIDistiller" in caplog.text
    assert model.head_weight == 0
    model(images((64, 64)))
