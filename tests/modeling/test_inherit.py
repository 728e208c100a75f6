"""Parts of the student that start with the teacher's weights, unless a checkpoint has them."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fam_det.modeling.inherit import inherit
from tests.modeling.small_detector import images, in_training, small_config

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
SAME_WIDTH = "['MODEL.FPN.OUT_CHANNELS', 16]"
PARTS = "['proposal_generator', 'roi_heads', 'backbone.fpn_output*']"
INHERIT = ("MODEL.TEACHER.OPTS", SAME_WIDTH, "MODEL.TEACHER.INHERIT", PARTS)


def inherited_names(model: Any) -> list[str]:
    starts = ("proposal_generator.", "roi_heads.", "backbone.fpn_output")
    return [name for name in model.student.state_dict() if name.startswith(starts)]


def equal_names(model: Any, others: dict[str, torch.Tensor]) -> set[str]:
    own = model.student.state_dict()
    return {
        name
        for name in own
        if name in others
        and own[name].shape == others[name].shape
        and torch.equal(own[name], others[name])
    }


def test_named_parts_are_the_teachers_and_no_others(build: Build) -> None:
    plain = build("MODEL.TEACHER.OPTS", SAME_WIDTH)
    teacher_weights = plain.teacher.detector.state_dict()
    untouched = equal_names(plain, teacher_weights)  # zero biases and the like
    model = in_training(build(*INHERIT))
    names = set(inherited_names(model))
    assert len(names) == 38
    assert equal_names(model, teacher_weights) == untouched | names
    teacher = {p.data_ptr() for p in model.teacher.parameters()}
    assert not teacher & {p.data_ptr() for p in model.parameters()}  # copies


def test_inherited_parts_train_on(build: Build, storage: EventStorage) -> None:
    model = in_training(build(*INHERIT))
    sum(model(images((64, 96), (96, 64))).values()).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
    moved = model.roi_heads.box_head.fc1.weight.clone()
    model.eval()
    model.train()  # as after each evaluation
    assert torch.equal(model.roi_heads.box_head.fc1.weight, moved)
    assert not torch.equal(moved, model.teacher.detector.roi_heads.box_head.fc1.weight)


@pytest.mark.parametrize("loaded_first", [True, False])
def test_a_checkpoint_with_the_parts_goes_first(build: Build, loaded_first: bool) -> None:
    model = build(*INHERIT)
    saved = {name: x + 1 for name, x in model.state_dict().items()}
    if not loaded_first:
        model.load_teacher()
    model.load_state_dict(saved)
    model.load_teacher()
    for name in inherited_names(model):
        assert torch.equal(model.state_dict()[name], saved[name])


def test_a_checkpoint_of_the_backbone_alone_leaves_the_heads_inherited(build: Build) -> None:
    model = build("MODEL.TEACHER.OPTS", SAME_WIDTH, "MODEL.TEACHER.INHERIT", "['roi_heads']")
    backbone = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.bottom_up")}
    model.load_state_dict(backbone, strict=False)
    teacher_weights = model.teacher.detector.state_dict()
    model.load_teacher()
    heads = {name for name in inherited_names(model) if name.startswith("roi_heads.")}
    assert heads <= equal_names(model, teacher_weights)


def test_a_checkpoint_for_other_classes_leaves_the_teachers_classifier(build: Build) -> None:
    model = build("MODEL.TEACHER.OPTS", SAME_WIDTH, "MODEL.TEACHER.INHERIT", "['roi_heads']")
    fits = {  # Detectron2 leaves out weights of another shape
        name: x + 1 for name, x in model.state_dict().items() if "box_predictor" not in name
    }
    model.load_state_dict(fits, strict=False)
    teacher_weights = model.teacher.detector.state_dict()
    model.load_teacher()
    assert torch.equal(
        model.roi_heads.box_predictor.cls_score.weight,
        teacher_weights["roi_heads.box_predictor.cls_score.weight"],
    )
    head = "roi_heads.box_head.fc1.weight"
    assert torch.equal(model.state_dict()[head], fits[head])


def test_inference_inherits_nothing(build: Build) -> None:
    model = build(*INHERIT).eval()
    others = model.teacher.detector.state_dict()
    assert not set(inherited_names(model)) <= equal_names(model, others)


def test_a_resumed_run_keeps_what_it_has_learned(tmp_path: Path) -> None:
    cfg = small_config(*INHERIT, "OUTPUT_DIR", str(tmp_path))
    model = in_training(build_model(cfg))
    with torch.no_grad():
        model.roi_heads.box_head.fc1.weight.fill_(7.0)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    fresh = build_model(cfg)
    DetectionCheckpointer(fresh, str(tmp_path)).resume_or_load("", resume=True)
    in_training(fresh)
    assert bool((fresh.roi_heads.box_head.fc1.weight == 7.0).all())


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.TEACHER.INHERIT", "['roi_head']"), r"has no part 'roi_head', its parts are \["),
        (
            ("MODEL.TEACHER.INHERIT", "['backbone.fpn_output*']"),
            r"fpn_output2.weight has shape \(16, 16, 3, 3\) in the student and \(24, 24, 3, 3\)",
        ),
        (
            ("MODEL.TEACHER.INHERIT", "['backbone.bottom_up']"),
            r"INHERIT: the teacher has no backbone.bottom_up",
        ),
    ],
)
def test_what_cannot_be_inherited_is_named(
    build: Build, opts: tuple[str, str], message: str
) -> None:
    model = build(*opts)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.load_teacher()
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


def test_a_teacher_checkpoint_without_the_parts_is_refused(build: Build, tmp_path: Path) -> None:
    teacher = build("MODEL.TEACHER.OPTS", SAME_WIDTH).teacher.detector
    backbone = {k: v for k, v in teacher.state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "teacher.pth")
    model = build(*INHERIT, "MODEL.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth"))
    with pytest.raises(ValueError, match="MODEL.TEACHER.WEIGHTS: .*weights are missing"):
        model.load_teacher()


def in_order(file: Path, names: str) -> str:
    """The opts of a config with a data set of these classes."""
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return f"['DATASETS.COCO', [['cells', '{file}', '']], 'DATASETS.TRAIN', ['cells']]"


@pytest.mark.parametrize(
    ("names", "parts", "classes"),
    [
        ("cab", "roi_heads", "[2, 0, 1]"),
        ("bxc", "roi_heads.box_predictor", "[1, -1, 2]"),
        ("axc", "roi_heads", ""),  # b may be called x here
        ("cab", "roi_heads.box_head", ""),  # has no rows by class
    ],
)
def test_classes_in_another_order_are_refused_where_their_rows_would_be_taken(
    names: str, parts: str, classes: str, tmp_path: Path
) -> None:
    teacher = in_order(tmp_path / "teacher.json", "abc")
    opts = [*INHERIT[:1], f"{SAME_WIDTH[:-1]}, {teacher[1:]}", *INHERIT[2:3], f"['{parts}']"]
    cfg = small_config(*opts)
    own = tmp_path / "student.json"
    in_order(own, names)
    cfg.defrost()
    cfg.DATASETS.COCO, cfg.DATASETS.TRAIN = [["cells", str(own), ""]], ("cells",)
    if not classes:
        build_model(cfg)
        return
    with pytest.raises(ValueError, match=re.escape(f"set MODEL.TEACHER.CLASSES {classes}")):
        build_model(cfg)
    cfg.MODEL.TEACHER.CLASSES = ast.literal_eval(classes)
    build_model(cfg)


def test_function_returns_what_it_copied() -> None:
    own, other = (torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3)}) for _ in range(2))
    assert inherit(own, other, ["a"]) == ["a.weight", "a.bias"]
    assert torch.equal(own["a"].weight, other["a"].weight)


def head_of(classes: int, meta: str, seed: int, ratios: Any = (0.5, 1.0, 2.0)) -> Any:
    torch.manual_seed(seed)
    opts = [f"MODEL.{node}.NUM_CLASSES" for node in ("ROI_HEADS", "RETINANET")]
    cfg = small_config(
        "MODEL.META_ARCHITECTURE", meta, *[x for key in opts for x in (key, str(classes))]
    )
    cfg.defrost()
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64]] if meta == "RetinaNet" else [[16]] * 5
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(ratios)]
    cfg.MODEL.MASK_ON = meta != "RetinaNet"
    return build_model(cfg)


def rows_of(model: Any, name: str, layer: str, k: int) -> torch.Tensor:
    """The rows of class k, counted by hand: of a predictor's weights, from each class's first."""
    weight, bias = (model.state_dict()[f"{name}.{kind}"] for kind in ("weight", "bias"))
    rows = {"bbox_pred": [4 * k + i for i in range(4)], "anchors": [k, k + model_classes(model)]}
    chosen = rows.get(layer, [k])
    return torch.cat([weight[chosen].flatten(), bias[chosen]])


def model_classes(model: Any) -> int:
    return int(getattr(model, "roi_heads", model).num_classes)


RCNN_PREDICTORS = {
    "roi_heads.box_predictor.cls_score": "",
    "roi_heads.box_predictor.bbox_pred": "bbox_pred",
    "roi_heads.mask_head.predictor": "",
}


@pytest.mark.parametrize(
    ("meta", "predictors"),
    [("GeneralizedRCNN", RCNN_PREDICTORS), ("RetinaNet", {"head.cls_score": "anchors"})],
)
def test_classes_are_taken_by_number_and_new_ones_stay_new(
    meta: str, predictors: dict[str, str]
) -> None:
    student, teacher, fresh = (head_of(*x) for x in ((3, meta, 0), (5, meta, 1), (3, meta, 0)))
    part = predictors and next(iter(predictors)).partition(".")[0]
    inherit(student, teacher, [part], classes=[4, -1, 1])
    for name, layer in predictors.items():
        for own, other in ((0, 4), (2, 1)):
            assert torch.equal(
                rows_of(student, name, layer, own), rows_of(teacher, name, layer, other)
            )
        assert torch.equal(rows_of(student, name, layer, 1), rows_of(fresh, name, layer, 1))
    if meta == "GeneralizedRCNN":  # the background's row is the last
        name = "roi_heads.box_predictor.cls_score"
        assert torch.equal(rows_of(student, name, "", 3), rows_of(teacher, name, "", 5))


def test_rows_of_another_number_of_anchors_are_refused() -> None:
    student, teacher = head_of(3, "RetinaNet", 0), head_of(5, "RetinaNet", 1, ratios=[1.0])
    with pytest.raises(ValueError, match=r"INHERIT: head.cls_score.weight has shape \(9, 16"):
        inherit(student, teacher, ["head.cls_score"], classes=[4, -1, 1])


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 5], [0, 1, -2]])
def test_classes_that_are_not_there_are_refused(classes: list[int]) -> None:
    student, teacher = head_of(3, "GeneralizedRCNN", 0), head_of(5, "GeneralizedRCNN", 1)
    with pytest.raises(ValueError, match=r"MODEL.TEACHER.CLASSES: got \[.*student's 3 classes"):
        inherit(student, teacher, ["roi_heads"], classes=classes)
