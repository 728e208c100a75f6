"""What is said of a training before it starts."""

from pathlib import Path
from typing import Any

import pytest

from fam_det.config import default_config
from fam_det.recipes import cost
from fam_det.recipes.recipe import Request
from fam_det.training.detection import load_config


def config(**keys: Any) -> Any:
    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        # 480 x 640 to 640 to 800 of the shorter side, 1333 of the longer at most
        (
            {"INPUT__MIN_SIZE_TRAIN": (640, 800)},
            "resized to 640 x 853 to 800 x 1067 for training, 800 x 1067 for evaluation",
        ),
        (
            {"INPUT__MIN_SIZE_TRAIN": (192,), "INPUT__MIN_SIZE_TEST": 192},
            "resized to 192 x 256",
        ),
        (
            {"INPUT__MIN_SIZE_TRAIN": (0,), "INPUT__MIN_SIZE_TEST": 0},
            "resized to 480 x 640",
        ),
        (
            {"INPUT__MIN_SIZE_TRAIN": (800,), "MODEL__TEACHER__INPUT_SCALE": 2.0},
            "resized to 800 x 1067; 2 times as large for the teacher",
        ),
    ],
)
def test_sizes(keys: dict[str, Any], text: str) -> None:
    found = cost.describe_sizes(config(**keys), (480, 640))
    assert found == f"images: 480 x 640 (median height x width), {text}"


def test_passes_and_hours(coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure_iteration", lambda cfg, processes: (1.8, 5))
    data = coco("a", num_images=50)
    request = Request("", "", train=data, val=data, output="x")
    cfg = config(SOLVER__MAX_ITER=1000, SOLVER__IMS_PER_BATCH=4, TEST__EVAL_PERIOD=300)
    _, passes, time = cost.describe_cost(request, cfg, trainings=3).splitlines()
    assert passes == (
        "1,000 iterations of 4 images: 80.0 passes over 50 images; evaluations of 50 images: 4"
    )
    assert time.startswith("1.8 s an iteration (measured now, over 5, on the CPU, ")
    assert time.endswith(
        ": about 30.0 minutes, and the evaluations; for all 3 trainings up to 1.5 hours"
    )


def test_an_iteration_is_one_of_the_training_and_leaves_nothing(
    cells: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["DATASETS.COCO", cells, "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    cfg = load_config("configs/BloodCells/teacher_R_18.yaml", words)
    before = cfg.clone()
    monkeypatch.chdir(tmp_path)
    seconds, count = cost.measure_iteration(cfg)
    assert (count > 0, seconds > 0, cfg) == (True, True, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_gpu_is_measured_in_a_process_that_says_what_is_wrong(cells: str) -> None:
    words = ["DATASETS.COCO", cells, "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    cfg = load_config("configs/BloodCells/teacher_R_18.yaml", words)
    assert cost.measure_in_subprocess(cfg)[0] > 0
    cfg.defrost()
    cfg.MODEL.WEIGHTS = "gone.pth"
    with pytest.raises(cost.FAULTS, match=r"gone\.pth"):
        cost.measure_in_subprocess(cfg)


def test_what_cannot_be_measured_is_said(coco: Any) -> None:
    data = coco("a")  # whose images cannot be read
    request = Request("", "", train=data, val=data, output="x")
    last = cost.describe_cost(request, config(DATASETS__TRAIN=("gone",))).splitlines()[-1]
    assert last.startswith("no time was measured: ")
