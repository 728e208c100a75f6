"""The contract of the wrapper: the student's own checkpoint, a teacher that never moves."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fam_det.files.metrics_file import LOG_PERIOD
from fam_det.modeling.hooks import captured_backbone
from tests.modeling.small_detector import images, in_training, small_config
from tests.plain_config import without_our_keys

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

Build = Callable[..., Any]


def train_step(
    model: Any, optimizer: torch.optim.Optimizer, batch: list[dict[str, Any]]
) -> dict[str, Any]:
    losses = model(batch)
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    return losses


def test_teacher_is_unchanged_by_training_steps(build: Build, storage: EventStorage) -> None:
    model = build()
    optimizer = build_optimizer(small_config(), model)
    in_training(model)
    batch = images((64, 96), (96, 64))
    before = copy.deepcopy(model.teacher.state_dict())
    for _ in range(2):
        train_step(model, optimizer, batch)
    after = model.teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in model.teacher.modules())


def test_teacher_is_in_no_state_dict_optimizer_or_parameter_list(build: Build) -> None:
    model = build()
    teacher = {id(p) for p in model.teacher.parameters()}
    assert not teacher & {id(p) for p in model.parameters()}
    groups = build_optimizer(small_config(), model).param_groups
    assert not teacher & {id(p) for group in groups for p in group["params"]}
    assert not any("teacher" in name for name in model.state_dict())
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_state_dict_is_the_students_with_distiller_keys(build: Build) -> None:
    names = set(build().state_dict())
    cfg = small_config()
    student = set(META_ARCH_REGISTRY.get("GeneralizedRCNN")(cfg).state_dict())
    assert {name for name in names if not name.startswith("distiller.")} == student


def test_every_parameter_gets_a_gradient(build: Build, storage: EventStorage) -> None:
    """Detectron2's DDP does not look for unused parameters."""
    for name in ("KnowledgeReviewDistiller", "LayerToLayerDistiller"):
        model = in_training(build("MODEL.DISTILLER.NAME", name))
        sum(model(images((64, 96))).values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_distillation_reaches_the_students_backbone_only_through_its_features(
    build: Build, storage: EventStorage
) -> None:
    model = in_training(build())
    model(images((64, 96)))["loss_distill"].backward()
    assert model.backbone.bottom_up.features[0][0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.roi_heads.parameters())
    assert all(p.grad is None for p in model.teacher.parameters())


def test_student_losses_are_those_of_the_plain_student(build: Build, storage: EventStorage) -> None:
    model = in_training(build())
    batch = images((64, 96))
    plain = META_ARCH_REGISTRY.get("GeneralizedRCNN")(small_config()).train()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("distiller.")}
    plain.load_state_dict(own)
    torch.manual_seed(1)
    expected = plain(batch)
    torch.manual_seed(1)
    losses = model(batch)
    assert set(losses) == {*expected, "loss_distill"}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


def test_inference_is_the_students(build: Build) -> None:
    model = build().eval()
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("distiller.")}
    plain = META_ARCH_REGISTRY.get("GeneralizedRCNN")(small_config()).eval()
    plain.load_state_dict(own)
    batch = images((64, 96))
    with torch.no_grad():
        ours, theirs = model(batch)[0]["instances"], plain(batch)[0]["instances"]
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert torch.equal(ours.scores, theirs.scores)


def test_inference_needs_no_teacher_weights(build: Build) -> None:
    model = build("MODEL.TEACHER.WEIGHTS", "no/such/file.pth").eval()
    assert len(model(images((64, 64)))) == 1
    with pytest.raises(ValueError, match="no/such/file.pth: there is no such checkpoint"):
        model.load_teacher()


def test_checkpoint_loads_into_plain_detectron2_without_this_package(
    build: Build, tmp_path: Any
) -> None:
    model = build().eval()
    DetectionCheckpointer(model, str(tmp_path)).save("distilled")
    cfg = small_config().clone()
    cfg.defrost()
    # R-18 instead of MobileNetV2: plain Detectron2 has no MobileNetV2
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEPTH = "build_resnet_fpn_backbone", 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    model = build_model(cfg).eval()
    DetectionCheckpointer(model, str(tmp_path)).save("distilled")
    batch = images((64, 96))
    with torch.no_grad():
        scores = model(batch)[0]["instances"].scores
    torch.save({"image": batch[0]["image"], "scores": scores}, tmp_path / "expected.pt")
    without_our_keys(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    (tmp_path / "plain.yaml").write_text(cfg.dump())
    script = f"""
import sys, torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.checkpoint import DetectionCheckpointer
cfg = get_cfg(); cfg.merge_from_file(r"{tmp_path}/plain.yaml")
model = build_model(cfg).eval()
checkpointer = DetectionCheckpointer(model)
incompatible = []
load = checkpointer._load_model
checkpointer._load_model = lambda c: incompatible.append(load(c)) or incompatible[0]
checkpointer.load(r"{tmp_path}/distilled.pth")
assert incompatible[0].missing_keys == [], incompatible[0].missing_keys
assert all(k.startswith("distiller.") for k in incompatible[0].unexpected_keys)
expected = torch.load(r"{tmp_path}/expected.pt")
with torch.no_grad():
    inputs = [{{"image": expected["image"], "height": 64, "width": 96}}]
    scores = model(inputs)[0]["instances"].scores
assert torch.equal(scores, expected["scores"])
assert not any(name.split(".")[0] == "fam_det" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_loss_weight_warms_up(build: Build) -> None:
    model = in_training(
        build("MODEL.DISTILLER.WARMUP_ITERS", "10", "MODEL.DISTILLER.LOSS_WEIGHT", "2.0")
    )
    batch = images((64, 96))
    losses = {}
    for iteration in (0, 4, 9, 100):
        with EventStorage(iteration):
            losses[iteration] = model(batch)["loss_distill"].item()
    for iteration, weight in ((0, 0.2), (4, 1.0), (9, 2.0)):
        assert losses[iteration] / losses[100] == pytest.approx(weight / 2.0, rel=1e-5)


def test_every_level_logs_its_loss_and_gammas(build: Build, storage: EventStorage) -> None:
    in_training(build())(images((64, 96)))
    logged = {name for name in storage.latest() if name.startswith("distiller/")}
    per_level = ("loss", "gamma_global", "gamma_local")
    expected = {f"distiller/{kind}_p{i}" for kind in per_level for i in range(2, 7)}
    assert logged == {*expected, "distiller/loss_weight", "distiller/teacher_time"}
    assert storage.latest()["distiller/gamma_global_p2"][0] == 0.5


def test_nothing_is_read_from_the_device_between_two_lines_of_metrics(build: Build) -> None:
    model = in_training(build())
    with EventStorage(LOG_PERIOD) as storage:
        model(images((64, 96)))
    assert {name for name in storage.latest() if name.startswith("distiller/")} == {
        "distiller/loss_weight"
    }


def test_a_step_without_the_teacher_says_what_to_call(build: Build, storage: EventStorage) -> None:
    with pytest.raises(RuntimeError, match=r"load_teacher\(\)"):
        build().train()(images((64, 64)))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ("NAME", "PKDDistiller", "FUSION", "abf", "LOSS", "mse"),
            "MODEL.DISTILLER.FUSION, MODEL.DISTILLER.LOSS: no effect on PKDDistiller",
        ),
        (("TRANSFORM", "conv3x3", "FAM.GRID", "4"), "MODEL.DISTILLER.FAM: no effect on Knowledge"),
        (("NAME", "LayerToLayerDistiller", "FUSION", "abf"), "FUSION: no effect on LayerToLayer"),
    ],
)
def test_keys_without_effect_are_named(
    build: Build, caplog: pytest.LogCaptureFixture, opts: tuple[str, ...], message: str
) -> None:
    keys = [x if i % 2 else f"MODEL.DISTILLER.{x}" for i, x in enumerate(opts)]
    build(*keys)
    assert message in caplog.text


def test_teacher_sees_its_own_channel_order_mean_and_std(build: Build) -> None:
    teacher_opts = "['MODEL.PIXEL_MEAN', [10.0, 20.0, 30.0], 'MODEL.PIXEL_STD', [1.0, 2.0, 4.0]]"
    model = build("INPUT.FORMAT", "RGB", "MODEL.TEACHER.OPTS", teacher_opts)  # the teacher is BGR
    rgb = torch.tensor([70.0, 60.0, 50.0]).view(3, 1, 1).expand(3, 2, 2)
    bgr_normalised = torch.tensor([(50 - 10) / 1, (60 - 20) / 2, (70 - 30) / 4])
    assert torch.equal(model.teacher._normalise(rgb)[:, 0, 0], bgr_normalised)


def test_teacher_moves_with_the_student(build: Build) -> None:
    model = build().double()
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    assert model.student.pixel_mean.dtype == torch.float64


def test_copy_is_independent_and_whole(build: Build, storage: EventStorage) -> None:
    model = build()
    clone = in_training(copy.deepcopy(model))
    assert clone.student.backbone is clone.backbone
    assert clone.backbone is not model.backbone
    assert "loss_distill" in clone(images((64, 64)))


def test_hook_is_removed_when_the_student_fails(build: Build) -> None:
    backbone = build().backbone
    with pytest.raises(RuntimeError, match="student"), captured_backbone(backbone):
        raise RuntimeError("student")
    assert not backbone._forward_hooks


def test_half_as_much_padding_as_image_changes_the_loss_by_less_than_a_tenth(build: Build) -> None:
    """Padding cells never count; what remains is the border of the convolutions and of the FFT."""
    model = in_training(build())
    for module in model.modules():  # running statistics: batch statistics would mix in the padding
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    (image,) = images((128, 128))
    (wide,) = images((128, 192), seed=1)
    with EventStorage(1019) as storage:
        model([image])
        alone = storage.latest()["distiller/loss_p2"][0]
        with captured_backbone(model.backbone) as captured:
            model([image, wide])
        features = captured["features"]
        teacher = model.teacher([image, wide], captured["padded_size"])
        sizes = {level: [(128 // s, 128 // s)] for level, s in model.strides.items()}
        one = model.distiller(
            {k: v[:1] for k, v in features.items()}, {k: v[:1] for k, v in teacher.items()}, sizes
        )
    assert one["p2"].item() == pytest.approx(alone, rel=0.1)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ("MODEL.STUDENT.META_ARCHITECTURE", "NoSuchNet"),
            "MODEL.STUDENT.META_ARCHITECTURE.*NoSuchNet",
        ),
        (("MODEL.TEACHER.CONFIG", "no-such.yaml"), "MODEL.TEACHER.CONFIG.*no-such.yaml"),
        (("MODEL.TEACHER.CONFIG", ""), "MODEL.TEACHER.CONFIG: got '', expected a file or a name"),
        (("MODEL.DISTILLER.NAME", "Nothing"), "MODEL.DISTILLER.NAME.*Nothing.*KnowledgeReview"),
        (("MODEL.DISTILLER.LEVELS", "['p2','p9']"), "student has no 'p9'.*p2, p3"),
        (("MODEL.DISTILLER.FUSION", "sum"), "MODEL.DISTILLER: fusion.*sum.*cross_attention"),
        (("MODEL.DISTILLER.TRANSFORM", "mlp"), "MODEL.DISTILLER: transform.*mlp.*fam"),
        (("MODEL.DISTILLER.LOSS", "huber"), "MODEL.DISTILLER.LOSS.*huber.*mse"),
        (("MODEL.DISTILLER.FAM.FILTER", "dense"), "MODEL.DISTILLER: size.*banded and separable"),
        (("MODEL.DISTILLER.FAM.GRID", "7"), "MODEL.DISTILLER: grid.*7.*even"),
        (("MODEL.DISTILLER.FAM.CUTOFF", "1.5"), r"MODEL.DISTILLER: cutoff.*1.5.*\[0, 1\]"),
        (("MODEL.DISTILLER.LOSS_WEIGHT", "-1.0"), "MODEL.DISTILLER.LOSS_WEIGHT: got -1.0"),
        (("MODEL.DISTILLER.WARMUP_ITERS", "-1"), "MODEL.DISTILLER.WARMUP_ITERS: got -1"),
        (("INPUT.FORMAT", "L"), "INPUT.FORMAT.*'L'.*BGR"),
    ],
)
def test_wrong_config_names_the_key(build: Build, opts: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(*opts)


def test_teacher_checkpoint_of_another_model_is_refused(build: Build, tmp_path: Any) -> None:
    torch.save({"model": {"backbone.fpn_lateral2.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    model = build("MODEL.TEACHER.WEIGHTS", str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="MODEL.TEACHER.WEIGHTS: .*none of the model's weights"):
        model.load_teacher()


@pytest.mark.parametrize("fusion", ["cross_attention", "abf", "none"])
def test_small_image_with_one_cell_at_p6_trains(
    build: Build, storage: EventStorage, fusion: str
) -> None:
    losses = in_training(build("MODEL.DISTILLER.FUSION", fusion))(images((64, 64)))
    assert torch.isfinite(losses["loss_distill"])
