"""Properties of every peer: gradients, weights, precision, options, a missing library."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from classification.config import get_cfg
from classification.distillers import Distiller, FeatureShapes, build_distiller
from classification.models import Features

Make = Callable[..., Distiller]
# Loss weight, cross entropy weight, warm-up: RepDistiller's and mdistiller's for CIFAR-100.
PUBLISHED = {
    "KD": (0.9, 0.1, 0),
    "DKD": (1.0, 1.0, 20),
    "DIST": (1.0, 1.0, 0),
    "AT": (1000.0, 1.0, 0),
    "FitNet": (100.0, 1.0, 0),
    "PKT": (30000.0, 1.0, 0),
    "RKD": (1.0, 1.0, 0),
    "SP": (3000.0, 1.0, 0),
    "VID": (1.0, 1.0, 0),
    "CRD": (0.8, 1.0, 0),
    "WCoRD": (1.0, 1.0, 0),
}
every_method = pytest.mark.parametrize("name", PUBLISHED)


@every_method
def test_student_and_every_parameter_get_a_gradient_and_the_teacher_none(
    make_distiller: Make,
    make_features: Callable[..., Features],
    shapes: dict[str, FeatureShapes],
    student: Features,
    labels: Tensor,
    indices: Tensor,
    name: str,
) -> None:
    teacher = make_features(shapes["teacher"], 2, grad=True)
    distiller = make_distiller(name).train()
    distiller(student, teacher, labels, indices)  # the first step of a run is not special
    terms = distiller(student, teacher, labels, indices)
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    assert set(distiller.term_weights) <= set(terms)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    inputs = [*student.maps, student.pooled, student.logits]
    assert any(x.grad is not None and x.grad.abs().max() > 0 for x in inputs)
    assert all(x.grad is None for x in [*teacher.maps, teacher.pooled, teacher.logits])
    assert [key for key, p in distiller.named_parameters() if p.grad is None] == []
    assert not any(p.is_complex() for p in [*distiller.parameters(), *distiller.buffers()])


@every_method
def test_weights_are_the_published_ones(make_distiller: Make, name: str) -> None:
    distiller = make_distiller(name)
    weights = (distiller.loss_weight, distiller.ce_weight, distiller.warmup_epochs)
    assert weights == PUBLISHED[name]


@pytest.mark.parametrize("name", ["KD", "DKD", "DIST", "AT", "PKT", "RKD", "SP"])
def test_identical_features_cost_nothing(
    make_distiller: Make,
    shapes: dict[str, FeatureShapes],
    student: Features,
    labels: Tensor,
    indices: Tensor,
    name: str,
) -> None:
    distiller = make_distiller(name, teacher=shapes["student"])
    total = sum(distiller(student, student, labels, indices).values())
    assert total.item() == pytest.approx(0.0, abs=1e-7)  # type: ignore[union-attr]
    total.backward()  # type: ignore[union-attr]
    for x in [*student.maps, student.pooled, student.logits]:
        assert x.grad is None or x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["KD", "DKD", "VID", "SP", "RKD", "WCoRD"])
def test_autocast_changes_nothing(
    make_distiller: Make,
    student: Features,
    teacher: Features,
    labels: Tensor,
    indices: Tensor,
    name: str,
) -> None:
    distiller = make_distiller(name).float()
    state = {key: value.clone() for key, value in distiller.state_dict().items()}
    losses = []
    for enabled in (False, True):
        distiller.load_state_dict(state)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            halves = [
                Features(
                    *(
                        [x.bfloat16() for x in f] if isinstance(f, list) else f.bfloat16()
                        for f in features
                    )
                )
                for features in (student, teacher)
            ]
            losses.append(torch.stack([*distiller(*halves, labels, indices).values()]))
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("KD", ("KD.TEMPERATURE", 0.0), "KD.TEMPERATURE: got 0.0, expected more than 0"),
        ("DKD", ("DKD.ALPHA", -1.0), "DKD.ALPHA: got -1.0, expected 0 or more"),
        ("DKD", ("DKD.TEMPERATURE", -4.0), "DKD.TEMPERATURE: got -4.0"),
        ("DIST", ("DIST.GAMMA", -1.0), "DIST.GAMMA: got -1.0"),
        ("RKD", ("RKD.DISTANCE_WEIGHT", -1.0), "RKD.DISTANCE_WEIGHT: got -1.0"),
        ("VID", ("VID.INIT_VARIANCE", 0.0), "VID.INIT_VARIANCE: got 0.0, expected more than 1e-05"),
        ("CRD", ("CRD.NEGATIVES", 0), "CRD.NEGATIVES: got 0, expected more than 0"),
        ("CRD", ("CRD.TEMPERATURE", 0.0), "CRD.TEMPERATURE: got 0.0"),
        ("WCoRD", ("WCORD.MOMENTUM", 1.0), "WCORD.MOMENTUM: got 1.0, expected 0 or more, below 1"),
        ("WCoRD", ("WCORD.ENTROPY", 0.0), "WCORD.ENTROPY: got 0.0"),
        ("AT", ("STUDENT_STAGES", [1, 2]), "STUDENT_STAGES, TEACHER_STAGES: got"),
        ("SP", ("TEACHER_STAGES", [9]), "TEACHER_STAGES: got .9., expected rising"),
    ],
)
def test_wrong_options_name_the_key(
    make_distiller: Make, name: str, opts: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"MODEL.DISTILLER: {message}"):
        make_distiller(name, *opts)


def test_a_network_without_a_second_stage_has_no_hint(make_distiller: Make) -> None:
    short = FeatureShapes([(3, 8, 8), (3, 4, 4)], 3, 5)
    with pytest.raises(ValueError, match="STUDENT_STAGES: got .2., expected rising numbers"):
        make_distiller("FitNet", student=short)


def test_only_maps_are_compared_and_stages_can_be_chosen(
    make_distiller: Make, student: Features, teacher: Features, labels: Tensor, indices: Tensor
) -> None:
    stages = ("STUDENT_STAGES", [1, 2], "TEACHER_STAGES", [1, 3])
    for name in ("FitNet", "SP"):
        terms = make_distiller(name, *stages)(student, teacher, labels, indices)
        assert list(terms) == ["stage1", "stage2"]


def test_sp_takes_the_last_stages_of_networks_of_any_depth(
    make_distiller: Make, shapes: dict[str, FeatureShapes]
) -> None:
    teacher = FeatureShapes([*shapes["teacher"].maps, (9, 1, 1)], 9, 5)
    distiller: Any = make_distiller("SP", teacher=teacher)
    assert (distiller.pairs.student.indices, distiller.pairs.teacher.indices) == ([3], [4])


def test_without_torchdistill_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, shapes: dict[str, FeatureShapes], train_labels: Tensor
) -> None:
    for module in [key for key in sys.modules if key.partition(".")[0] == "torchdistill"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchdistill", None)
    cfg = get_cfg()
    for name in ("DKD", "FitNet", "SP", "WCoRD", "LayerToLayerDistiller"):
        cfg.MODEL.DISTILLER.NAME = name
        build_distiller(cfg, shapes["student"], shapes["teacher"], train_labels)
    for name in ("KD", "DIST", "AT", "PKT", "RKD", "VID", "CRD"):
        cfg.MODEL.DISTILLER.NAME = name
        with pytest.raises(ImportError, match="torchdistill, which is missing: pip install"):
            build_distiller(cfg, shapes["student"], shapes["teacher"], train_labels)


@pytest.mark.parametrize(
    ("name", "opts", "unused"),
    [
        ("KD", ("FUSION", "abf", "TRANSFORM", "conv3x3"), ["FUSION", "TRANSFORM"]),
        ("SP", ("STUDENT_PREACT", True, "DKD.BETA", 2.0), ["DKD"]),
        ("LayerToLayerDistiller", ("MID_CHANNELS", [8], "FAM.GRID", 4), ["MID_CHANNELS"]),
        ("LayerToLayerDistiller", ("TRANSFORM", "conv3x3", "FAM.GRID", 4), ["FAM"]),
        ("DKD", ("LOSS_WEIGHT", 2.0, "DKD.BETA", 2.0), []),
    ],
)
def test_one_line_names_the_keys_without_effect(
    shapes: dict[str, FeatureShapes],
    train_labels: Tensor,
    caplog: pytest.LogCaptureFixture,
    name: str,
    opts: tuple[Any, ...],
    unused: list[str],
) -> None:
    cfg = get_cfg()
    cfg.MODEL.DISTILLER.NAME = name
    cfg.merge_from_list([f"MODEL.DISTILLER.{x}" if i % 2 == 0 else x for i, x in enumerate(opts)])
    build_distiller(cfg, shapes["student"], shapes["teacher"], train_labels)
    keys = ", ".join(f"MODEL.DISTILLER.{key}" for key in unused)
    assert caplog.messages == ([f"{keys}: no effect on {name}"] if unused else [])


def test_torchdistill_leaves_the_random_state_alone(make_distiller: Make) -> None:
    before = torch.get_rng_state()
    make_distiller("KD")
    assert torch.equal(torch.get_rng_state(), before)
