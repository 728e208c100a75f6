"""The ladder's students, and how one of them is chosen, without measuring."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fam_det.recipes.data import CocoData
from fam_det.recipes.ladder import Rung, build_ladder
from fam_det.recipes.meter import Measurement, typical_image
from fam_det.recipes.recipe import Request, derive, teacher_keys
from fam_det.recipes.sizing import Sizing, Target, format_rows
from tests.recipes.conftest import POLYGON, content

TEACHER = "configs/BloodCells/teacher_R_18.yaml"
# A smaller RetinaNet, quicker to build.
RETINANET = "COCO-Detection/retinanet_R_50_FPN_3x.yaml"
SMALL_RETINANET = ["MODEL.TEACHER.OPTS", "['MODEL.RESNETS.DEPTH', 18, "]
SMALL_RETINANET[1] += "'MODEL.RESNETS.RES2_OUT_CHANNELS', 64, 'MODEL.FPN.OUT_CHANNELS', 32]"
Coco = Callable[..., CocoData]


def ladder(data: CocoData, student: str = "", *opts: str, teacher: str = TEACHER) -> list[Rung]:
    request = Request(
        *(teacher, student, data, data, "output/x"),
        teacher_weights="none",
        student_weights="none",
        options=list(opts),
    )
    known, _, base = teacher_keys(request)
    return build_ladder(request, known, base)


def sizes(rungs: list[Rung]) -> list[tuple[Any, ...]]:
    """FPN width, RPN width, proposals and image size of each."""
    models = [(rung.cfg.MODEL, rung.cfg.INPUT.MIN_SIZE_TEST) for rung in rungs]
    return [(m.FPN.OUT_CHANNELS, m.RPN.CONV_DIMS, m.RPN.POST_NMS_TOPK_TEST, x) for m, x in models]


def test_steps_below_a_named_student(coco: Coco) -> None:
    rungs = ladder(coco("a"), "resnet18")
    assert {rung.student for rung in rungs} == {"resnet18"}
    assert sizes(rungs) == [
        (64, [-1], 250, 192),
        (32, [64], 250, 192),  # the teacher's hidden width, so that its weights fit
        (16, [64], 250, 192),
        (16, [64], 250, 192),  # one sample a bin
        (16, [64], 100, 192),
        (16, [64], 100, 128),
        (16, [64], 20, 128),  # few objects in each image
        (8, [64], 20, 128),
        (8, [64], 20, 96),
    ]
    crowded = replace(coco("a"), most_objects=25)
    assert [x for _, _, x, _ in sizes(ladder(crowded, "resnet18"))[5:]] == [100, 75, 75, 75]
    unknown = replace(crowded, most_objects=0)
    assert [x for _, _, x, _ in sizes(ladder(unknown, "resnet18"))[5:]] == [100, 100, 100]


def test_a_wide_rpn_becomes_narrow(coco: Coco) -> None:
    wide = ("MODEL.TEACHER.OPTS", "['MODEL.RPN.CONV_DIMS', [256]]")
    widths = [width for _, width, _, _ in sizes(ladder(coco("a"), "resnet18", *wide))]
    assert widths == 5 * [[256]] + 5 * [[64]]


def test_backbones_are_no_deeper_than_the_teachers(coco: Coco) -> None:
    rungs = ladder(coco("a"))
    assert [(rung.name, rung.cfg.MODEL.FPN.OUT_CHANNELS) for rung in rungs[:6]] == [
        ("resnet18", 32),
        ("resnet18", 16),
        ("mobilenet_v2 x 1", 16),
        ("mobilenet_v2 x 0.5", 16),
        ("mobilenet_v2 x 0.35", 16),
        ("mobilenet_v2 x 0.35", 16),
    ]


def test_users_own_keys_stay(coco: Coco) -> None:
    own = ("MODEL.FPN.OUT_CHANNELS", "24", "INPUT.MIN_SIZE_TEST", "160", "INPUT.MAX_SIZE_TEST")
    own += ("160", "INPUT.MIN_SIZE_TRAIN", "(160,)", "INPUT.MAX_SIZE_TRAIN", "160")
    assert sizes(ladder(coco("a"), "resnet18", *own)) == [
        (24, [64], 250, 160),
        (24, [64], 250, 160),
        (24, [64], 100, 160),
        (24, [64], 20, 160),
    ]


def test_dense_student_has_neither_rpn_nor_proposals(coco: Coco) -> None:
    rungs = ladder(coco("a"), "resnet18", *SMALL_RETINANET, teacher=RETINANET)
    assert [(x, size) for x, _, _, size in sizes(rungs)] == [
        *((32, 800), (16, 800), (8, 800)),
        *((8, 533), (8, 400)),
    ]


def test_small_images_are_those_of_a_teacher_that_sees_its_own(coco: Coco) -> None:
    rung = ladder(coco("a"), "resnet18")[-1]
    assert rung.cfg.MODEL.TEACHER.INPUT_SCALE == 2
    assert rung.cfg.INPUT.MIN_SIZE_TRAIN == (96,)
    assert rung.cfg.INPUT.MAX_SIZE_TEST == 128
    assert rung.cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[8.0], [16.0], [32.0], [64.0], [128.0]]
    same_scale = ladder(coco("a"), "resnet18", "MODEL.TEACHER.MATCH", "same_scale")[-1]
    assert same_scale.cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[16], [32], [64], [128], [256]]


def test_distill_takes_half_the_size_as_a_key_of_the_user(coco: Coco) -> None:
    data = coco("a")
    keys: dict[str, Any] = {"teacher_weights": "none", "student_weights": "none"}
    options = ["MODEL.TEACHER.INPUT_SCALE", "2.0", "MODEL.TEACHER.MATCH", "same_scale"]
    recipe = derive(Request(TEACHER, "resnet18", data, data, "output/x", **keys, options=options))
    assert recipe.cfg.INPUT.MIN_SIZE_TEST == 96
    assert recipe.cfg.MODEL.DISTILLER.LEVELS == ["p3", "p4", "p5"]  # the teacher has no p7
    assert "MIN_SIZE_TEST: 96  # the teacher has 192" in recipe.to_yaml()


def test_size_reaches_the_config_with_its_reasons(coco: Coco) -> None:
    data = coco("a")
    rung = ladder(data, "resnet18")[7]
    keys: dict[str, Any] = {"teacher_weights": "none", "student_weights": "none"}
    request = Request(TEACHER, "resnet18", data, data, "output/x", **keys, size=rung.keys)
    recipe = derive(request)
    assert recipe.cfg.MODEL.RPN.PRE_NMS_TOPK_TEST == 100
    text = recipe.to_yaml()
    assert "OUT_CHANNELS: 8  # the teacher has 64" in text
    assert "PRE_NMS_TOPK_TEST: 100  # a level; the teacher has 250" in text
    assert "POST_NMS_TOPK_TEST: 20  # objects of the fullest image: 1" in text


def row(index: int, speedup: float) -> Measurement:
    return Measurement(f"rung {index}", 16, 64, 100, (64, 96), 1, 4, {}, 0.1 / speedup, speedup)


def test_widths_and_times_of_fpn_and_rpn_are_in_columns_of_their_own() -> None:
    measured = row(1, 2.0)._replace(parts={"FPN": 0.012, "RPN": 0.034})
    *_, line = format_rows([measured], "PyTorch").splitlines()
    assert line.split()[2:5] == ["16", "64", "100"]
    assert line.split()[-4:] == ["12.0", "34.0", "50.0", "2.0x"]


class Known(Sizing):
    """A ladder whose speeds are known; it notes which were asked for."""

    def __init__(self, target: Target, speeds: list[float]) -> None:
        self.target, self.speeds = target, speeds
        self.ladder, self.rows = [None] * len(speeds), {}  # type: ignore[assignment, list-item]
        self.meter = type("Meter", (), {"device": "cpu"})()  # type: ignore[assignment]

    def _fetch(self, index: int) -> None:
        pass

    def _measure(self, indices: Any) -> None:
        self.rows |= {i: row(i, self.speeds[i]) for i in indices}


@pytest.mark.parametrize(
    ("target", "chosen"),
    [
        (Target(speedup=1.0), 0),
        (Target(speedup=5.0), 4),
        (Target(speedup=5.5), 5),
        (Target(latency=100.0), 0),
        (Target(latency=20.0), 4),
        (Target(latency=12.0), 8),
    ],
)
def test_largest_that_is_fast_enough(target: Target, chosen: int) -> None:
    sizing = Known(target, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    assert sizing.choose() == chosen
    assert len(sizing.rows) <= 4  # of 9


def test_no_student_is_fast_enough() -> None:
    sizing = Known(Target(speedup=5.0, runtime="onnx"), [1.0, 2.0, 4.0])
    with pytest.raises(
        ValueError, match=r"--speedup 5: no student is that fast, the fastest is ru"
    ):
        sizing.choose()
    with pytest.raises(ValueError, match=r"rung 2, .*4.0 times the .* in ONNX Runtime, 25.0 ms"):
        sizing.choose()


def test_a_student_whose_weights_cannot_be_fetched_is_left_out(
    coco: Coco, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Offline(Known):
        """Without network, and with the weights of MobileNetV2 in the cache."""

        def _fetch(self, index: int) -> None:
            if self.ladder[index].student != "mobilenet_v2":
                raise OSError(f"{self.ladder[index].student}: cannot download")

    data = coco("a")
    request = Request(TEACHER, "", data, data, "output/x", teacher_weights="none")
    known, _, base = teacher_keys(request)
    sizing = Offline(Target(speedup=5.0), [float(i) for i in range(99)])
    sizing._build = partial(build_ladder, request, known, base)
    sizing.ladder, sizing.without = sizing._build(), []
    index = sizing.choose()
    assert sizing.ladder[index].student == "mobilenet_v2"
    assert "left out: timm://mobilenetv3_small_100: cannot download" in capsys.readouterr().err


def test_picture_is_of_the_median_size_and_number_of_objects(write: Any, coco: Coco) -> None:
    data = content(("a",), 5, segmentation=POLYGON)
    for image, width in zip(data["images"], (64, 96, 96, 96, 128), strict=True):
        image["width"] = width
    for image, count in ((1, 5), (2, 2), (4, 3)):  # beside the one that each image has
        first = len(data["annotations"]) + 1
        own = data["annotations"][image]
        data["annotations"] += [own | {"id": first + i} for i in range(count)]
    file, folder = write(data)
    cfg = ladder(coco("a"), "resnet18")[0].cfg
    write(data)
    image, size = typical_image(CocoData(file, folder, ("a",), 5, 5, True, False, (64, 96)), cfg)
    assert image == Path(folder) / "2.png"  # 1, 6, 3, 1, 4 objects; 64 to 128 wide
    assert size == (64, 96)
