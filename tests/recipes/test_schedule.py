"""Iterations and the keys that follow from them, by closed form."""

import pytest

from fam_det.recipes.schedule import COCO_IMAGES, iterations, solver_overrides


@pytest.mark.parametrize(
    ("schedule", "num_images", "batch", "expected"),
    [
        ("1x", COCO_IMAGES, 16, 90_000),  # Detectron2's
        ("1x", COCO_IMAGES, 8, 180_000),
        ("0.1x", COCO_IMAGES, 16, 9_000),
        ("1x", 4 * COCO_IMAGES, 16, 180_000),  # four times the data: twice as long
        ("1x", 205, 8, 7526),  # 180000 sqrt(205 / 117266) = 7525.9
        ("5000", 205, 8, 5000),
        ("0.00001x", 1, 64, 1),
    ],
)
def test_iterations(schedule: str, num_images: int, batch: int, expected: int) -> None:
    assert iterations(schedule, num_images, batch) == expected


@pytest.mark.parametrize("schedule", ["", "x", "0.0x", "-1x", "1.5", "0", "2e3"])
def test_wrong_schedule_is_one_line(schedule: str) -> None:
    with pytest.raises(ValueError, match=rf"--schedule: got '{schedule}', expected 1x, a multiple"):
        iterations(schedule, 10, 8)


@pytest.mark.parametrize(
    ("architecture", "batch", "expected"),
    [("GeneralizedRCNN", 16, 0.02), ("GeneralizedRCNN", 4, 0.005), ("RetinaNet", 8, 0.005)],
)
def test_learning_rate_is_linear_in_the_batch(
    architecture: str, batch: int, expected: float
) -> None:
    overrides = solver_overrides("1x", architecture, num_images=9, num_validated=9, batch=batch)
    assert overrides["SOLVER.BASE_LR"].value == pytest.approx(expected)


def values(schedule: str, num_validated: int = 10, batch: int = 16) -> dict[str, object]:
    overrides = solver_overrides(
        schedule,
        "GeneralizedRCNN",
        num_images=COCO_IMAGES,
        num_validated=num_validated,
        batch=batch,
    )
    return {key.rpartition("SOLVER.")[2]: override.value for key, override in overrides.items()}


def test_one_x_on_coco_is_that_of_detectron2() -> None:
    got = values("1x", 5000)
    assert got["MAX_ITER"] == 90_000
    assert got["STEPS"] == [60_000, 80_000]
    assert got["WARMUP_ITERS"] == 1000
    assert got["TEST.EVAL_PERIOD"] == got["CHECKPOINT_PERIOD"] == 9000


def test_short_schedules_keep_their_order() -> None:
    got = values("900")
    assert (got["STEPS"], got["WARMUP_ITERS"], got["TEST.EVAL_PERIOD"]) == ([600, 800], 90, 100)
    got = values("4")
    assert (got["STEPS"], got["WARMUP_ITERS"]) == ([3], 1)  # 8/9 of 4 is 4
    assert values("1")["STEPS"] == []


def test_evaluations_see_no_more_images_than_the_training_between_them() -> None:
    assert values("900", num_validated=5000, batch=8)["TEST.EVAL_PERIOD"] == 625
