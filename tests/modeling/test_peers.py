"""Every peer trains through the wrapper, with the key that FAM uses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.modeling.small_detector import STUDENTS, images, in_training

from detectron2.utils.events import EventStorage

Build = Callable[..., Any]
ON_MAPS = ["FitNetDistiller", "FGFIDistiller", "PKDDistiller", "CWDDistiller", "FreeKDDistiller"]
ON_LEVELS = {f"distiller/loss_p{i}" for i in range(2, 7)}
LOGGED = dict.fromkeys(ON_MAPS, ON_LEVELS) | {"DKDDistiller": {"distiller/loss_roi_logits"}}
WITHOUT_PARAMETERS = {"DKDDistiller"}
WHERE_NEEDED = {"PKDDistiller", "CWDDistiller"}
RETINANET = STUDENTS["RetinaNet"]
SAME_WIDTH = ("MODEL.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNELS', 16]")


@pytest.mark.parametrize("name", LOGGED)
@pytest.mark.parametrize("opts", [(), SAME_WIDTH], ids=["other width", "same width"])
def test_a_peer_trains_the_student_and_all_of_itself(
    build: Build, storage: EventStorage, name: str, opts: tuple[str, ...]
) -> None:
    model = in_training(build("MODEL.DISTILLER.NAME", name, *opts))
    losses = model(images((64, 96), (96, 64)))
    assert torch.isfinite(losses["loss_distill"])
    losses["loss_distill"].backward()
    assert all(p.grad is not None for p in model.distiller.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())
    assert not any(p.grad is not None for p in model.teacher.parameters())
    assert LOGGED[name] <= set(storage.latest())
    has_adapters = name not in WITHOUT_PARAMETERS and not (opts and name in WHERE_NEEDED)
    assert any(k.startswith("distiller.") for k in model.state_dict()) == has_adapters


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        ("CWDDistiller", ("CWD.TEMPERATURE", "0.0"), "CWD.TEMPERATURE: got 0.0, .* more than 0"),
        ("FGFIDistiller", ("FGFI.THRESHOLD", "1.5"), "FGFI.THRESHOLD: got 1.5, expected 0 to 1"),
        ("DKDDistiller", ("DKD.TEMPERATURE", "0.0"), "DKD.TEMPERATURE: got 0.0, .* more than 0"),
        ("DKDDistiller", ("DKD.BETA", "-1.0"), "DKD.BETA: got -1.0, expected 0 or more"),
        ("FreeKDDistiller", ("FREEKD.MSE_WEIGHT", "-1.0"), "FREEKD.MSE_WEIGHT: got -1.0"),
        ("DKDDistiller", ("LEVELS", "['p3']"), "LEVELS: DKDDistiller needs 'p2'.*got p3"),
    ],
)
def test_a_wrong_option_of_a_peer_is_refused(
    build: Build, name: str, opts: tuple[str, str], message: str
) -> None:
    key, value = opts
    with pytest.raises(ValueError, match=f"MODEL.DISTILLER.{message}"):
        build("MODEL.DISTILLER.NAME", name, f"MODEL.DISTILLER.{key}", value)


@pytest.mark.parametrize(
    ("name", "opts", "message"),
    [
        (
            "DKDDistiller",
            ("MODEL.STUDENT.META_ARCHITECTURE", "RetinaNet", *RETINANET),
            "DKDDistiller needs R-CNNs with StandardROIHeads, the student has no ROI heads",
        ),
        (
            "DKDDistiller",
            (
                *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
                *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
            ),
            "the student has CascadeROIHeads",
        ),
        (
            "DKDDistiller",
            ("MODEL.ROI_HEADS.NUM_CLASSES", "5"),
            "NUM_CLASSES: DKDDistiller needs the teacher's 3 classes, got 5",
        ),
        (
            "FGFIDistiller",
            (
                *("MODEL.RPN.IN_FEATURES", "['p3', 'p4', 'p5', 'p6']"),
                *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256]]"),
            ),
            "needs anchors on 'p2', the student has them on p3, p4, p5, p6",
        ),
    ],
)
def test_detectors_that_do_not_fit_a_peer_are_refused(
    build: Build, name: str, opts: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build("MODEL.DISTILLER.NAME", name, *opts)


def test_a_retinanet_imitates_near_its_anchors(build: Build, storage: EventStorage) -> None:
    model = in_training(
        build(
            *("MODEL.DISTILLER.NAME", "FGFIDistiller", "MODEL.DISTILLER.LEVELS", "['p3', 'p5']"),
            *("MODEL.STUDENT.META_ARCHITECTURE", "RetinaNet", *RETINANET),
        )
    )
    losses = model(images((64, 96)))
    assert losses["loss_distill"] > 0
    assert "loss_cls" in losses
