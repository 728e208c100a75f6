"""A teacher that sees larger images than its student."""

import itertools
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fam_det.core.resample import resample
from fam_det.modeling.anchors import warn_of_anchor_mismatch
from fam_det.modeling.basis import second_moments
from fam_det.modeling.levels import pair_levels, paired_shapes
from tests.modeling.small_detector import THIN, images, in_training, with_teacher_images

from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import RotatedAnchorGenerator
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
TWICE = ("MODEL.TEACHER.INPUT_SCALE", "2.0")
SAME_SCALE = (*TWICE, "MODEL.TEACHER.MATCH", "same_scale")
SHAPES = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 7)}


def compared(model: Any, batch: list[dict[str, Any]]) -> dict[str, dict[str, torch.Tensor]]:
    """The maps and valid sizes that the distiller is given."""
    given: dict[str, Any] = {}

    def keep(_: Any, inputs: Any) -> None:
        given.update(zip(("student", "teacher", "valid"), inputs, strict=True))

    handle = model.distiller.register_forward_pre_hook(keep)
    model(batch)
    handle.remove()
    return given


def test_levels_of_one_scale_have_as_many_cells() -> None:
    assert pair_levels(SHAPES, SHAPES) == {name: name for name in SHAPES}
    pairs = pair_levels(SHAPES, SHAPES, "same_scale", 2.0)
    assert pairs == {"p2": "p3", "p3": "p4", "p4": "p5", "p5": "p6"}
    shapes = paired_shapes(SHAPES, SHAPES, "same_scale", 2.0)
    assert {name: shape.stride for name, shape in shapes.items()} == {
        name: SHAPES[name].stride for name in pairs
    }
    assert pair_levels(SHAPES, SHAPES, "same_scale", 4.0) == {"p2": "p4", "p3": "p5", "p4": "p6"}


@pytest.mark.parametrize(
    ("match", "scale", "message"),
    [
        ("same_scale", 1.5, "INPUT_SCALE: got 1.5, expected 1, 2, 4, ... for .* 'same_scale'"),
        ("same_level", 0.5, "INPUT_SCALE: got 0.5, expected 1 or more"),
        ("same_level", float("nan"), "INPUT_SCALE: got nan, expected 1 or more"),
        ("other", 2.0, "MATCH: got 'other', expected one of .*'same_level'"),
    ],
)
def test_what_cannot_be_matched_names_the_key(match: str, scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"MODEL.TEACHER.{message}"):
        pair_levels(SHAPES, SHAPES, match, scale)


@pytest.mark.parametrize("opts", [TWICE, SAME_SCALE, ("MODEL.TEACHER.INPUT_SCALE", "1.5")])
def test_maps_of_the_larger_image_are_on_the_student_s_cells(
    build: Build, storage: EventStorage, opts: tuple[str, ...]
) -> None:
    model = in_training(build(*opts))
    scale = model.teacher.input_scale
    batch = with_teacher_images((64, 96), (50, 70), scale=scale)
    given = compared(model, batch)
    padded = torch.zeros(2, 3, *(32 * math.ceil(x * scale / 32) for x in (64, 96)))
    for i, x in enumerate(batch):
        image = model.teacher._normalise(x["teacher_image"])
        padded[i, :, : image.shape[1], : image.shape[2]] = image
    maps = model.teacher.backbone(padded)
    levels = ["p2", "p3", "p4", "p5", "p6"]
    if "same_scale" in opts:
        assert list(given["teacher"]) == levels[:-1]
        expected = {own: maps[other] for own, other in itertools.pairwise(levels)}
    else:
        assert list(given["teacher"]) == levels
        sizes = {name: tuple(given["student"][name].shape[2:]) for name in levels}
        expected = {name: resample(maps[name], sizes[name], scale) for name in levels}
    for name, x in given["teacher"].items():
        torch.testing.assert_close(x, expected[name], rtol=1e-4, atol=1e-4)
        assert x.shape[2:] == given["student"][name].shape[2:]
    assert given["valid"]["p3"] == [(8, 12), (7, 9)]


def test_a_scale_of_1_is_the_detector_without(build: Build, storage: EventStorage) -> None:
    """To the bit, and whatever the match."""
    plain = in_training(build())
    scaled = in_training(build("MODEL.TEACHER.MATCH", "same_level_area"))
    scaled.load_state_dict(plain.state_dict())
    scaled.teacher.detector.load_state_dict(plain.teacher.detector.state_dict())
    for name, x in compared(plain, images((64, 96)))["teacher"].items():
        assert torch.equal(x, compared(scaled, images((64, 96)))["teacher"][name])


@pytest.mark.parametrize("opts", [TWICE, SAME_SCALE])
def test_heads_and_basis_come_from_the_larger_image(
    build: Build, storage: EventStorage, opts: tuple[str, ...]
) -> None:
    model = build(*THIN, *opts)
    batch = with_teacher_images((64, 96))
    large = [{**x, "image": x["teacher_image"]} for x in batch]
    model.teacher.load_weights()
    levels = [f"p{i}" for i in range(3 if "same_scale" in opts else 2, 7)]
    found = second_moments(model.teacher, levels, [batch], 1)
    model.teacher.input_scale = 1.0
    torch.testing.assert_close(found, second_moments(model.teacher, levels, [large], 1))
    model.teacher.input_scale, model.teacher.is_loaded = 2.0, False
    model.load_teacher([batch])
    assert model.distiller.basis.any()
    sum(model.train()(batch).values()).backward()


@pytest.mark.parametrize(
    ("name", "opts"),
    [(name, opts) for name in ("FGFIDistiller", "PKDDistiller") for opts in (TWICE, SAME_SCALE)]
    + [("DKDDistiller", SAME_SCALE)],
)
def test_peers_learn_from_it_too(
    build: Build, storage: EventStorage, name: str, opts: tuple[str, ...]
) -> None:
    levels = ("MODEL.DISTILLER.LEVELS", "['p2', 'p3', 'p4', 'p5']")
    model = in_training(build(*opts, *levels, "MODEL.DISTILLER.NAME", name))
    losses = model(with_teacher_images((64, 96), (64, 64)))
    assert losses["loss_distill"].isfinite()


def test_heads_of_the_teacher_need_maps_of_their_scale(build: Build) -> None:
    levels = ("MODEL.DISTILLER.LEVELS", "['p2', 'p3', 'p4', 'p5']")
    with pytest.raises(ValueError, match="MATCH: got 'same_level', expected 'same_scale' for DKD"):
        build(*TWICE, *levels, "MODEL.DISTILLER.NAME", "DKDDistiller")


def test_a_mapper_without_larger_images_is_named(build: Build, storage: EventStorage) -> None:
    model = in_training(build(*TWICE))
    with pytest.raises(ValueError, match=r"INPUT_SCALE: got 2, but the mapper .* 'teacher_image'"):
        model(images((64, 96)))


def test_other_anchors_than_the_inherited_head_s_are_said(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("fam_det").propagate = True
    own = ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16], [32], [64], [128]]")
    for opts, is_said in ((TWICE, True), ((*TWICE, *own), False), (SAME_SCALE, False)):
        caplog.clear()
        build(*THIN, *opts).load_teacher([with_teacher_images((64, 64))])
        expected = "anchors that are, in the student's pixels, [[8.0], [16.0], [32.0], [64.0], "
        assert (expected in caplog.text) == is_said


def test_rotated_anchors_are_compared_by_their_area(caplog: pytest.LogCaptureFixture) -> None:
    def detector(*sizes: float) -> nn.Module:
        module = nn.Module()
        module.in_features = ["p2", "p3"]
        module.anchor_generator = RotatedAnchorGenerator(
            sizes=[[x] for x in sizes], aspect_ratios=[[1.0]], strides=[4, 8], angles=[[-30, 30]]
        )
        return module

    logging.getLogger("fam_det").propagate = True
    pairs = {"p2": "p2", "p3": "p3"}
    warn_of_anchor_mismatch(detector(16, 32), detector(32, 64), pairs, 2.0)
    assert not caplog.records
    warn_of_anchor_mismatch(detector(16, 32), detector(32, 64), pairs, 1.0)
    assert "[[32.0], [64.0]] on p2, p3; the student has [[16.0], [32.0]]" in caplog.text
