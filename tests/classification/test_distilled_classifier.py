"""The wrapper: its losses, its checkpoint, its warm-up, its teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
import yaml
from torch import Tensor

from classification.build import build_classifier
from classification.data import Batch
from classification.models import build_model
from classification.models.imagenet import pretrained_weights

from detectron2.utils.events import EventStorage


def batch(images: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(images, 3, 32, 32, generator=generator),
        torch.randint(10, (images,), generator=generator),
        torch.arange(images),
    )


def losses_at(model: Any, iteration: int) -> tuple[dict[str, Tensor], EventStorage]:
    with EventStorage(iteration) as storage:
        return model.train()(batch()), storage


def test_checkpoint_is_the_students_with_distiller_keys(make_cfg: Any) -> None:
    model = build_classifier(make_cfg())
    student_keys = set(build_model("resnet8", 10).state_dict())
    own = set(model.state_dict())
    assert own >= student_keys
    assert all(key.startswith("distiller.") for key in own - student_keys)
    assert own - student_keys


def test_teacher_is_not_among_the_parameters_and_never_trains(make_cfg: Any) -> None:
    model = build_classifier(make_cfg()).train()
    assert model.teacher is not None
    assert not model.teacher.training
    before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, _ = losses_at(model, 0)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    of_model = {id(p) for p in model.parameters()}
    assert not any(id(p) in of_model or p.requires_grad for p in model.teacher.parameters())
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_every_parameter_gets_a_gradient(make_cfg: Any) -> None:
    model = build_classifier(make_cfg())
    losses, _ = losses_at(model, 0)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_in_eval_mode_it_is_the_student(make_cfg: Any) -> None:
    model = build_classifier(make_cfg()).eval()
    student = build_model("resnet8", 10).eval()
    student.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(batch()), student(batch().images), rtol=0, atol=1e-5)


def test_without_a_distiller_the_loss_is_the_cross_entropy(make_cfg: Any) -> None:
    model = build_classifier(make_cfg("MODEL.DISTILLER.NAME", ""))
    assert model.teacher is None
    student = build_model("resnet8", 10).train()
    student.load_state_dict(model.state_dict())
    losses, _ = losses_at(model, 0)
    expected = F.cross_entropy(student(batch().images), batch().labels)
    assert list(losses) == ["loss_ce"]
    torch.testing.assert_close(losses["loss_ce"], expected)


def test_weight_rises_by_epochs_as_published(make_cfg: Any) -> None:
    # 64 images in batches of 8: 8 iterations an epoch; min(epoch / 4, 1), the first epoch being 1
    opts = ("MODEL.DISTILLER.WARMUP_EPOCHS", 4, "MODEL.DISTILLER.LOSS_WEIGHT", 20.0)
    model = build_classifier(make_cfg(*opts))
    weights = [
        losses_at(model, i)[1].latest()["distiller/loss_weight"][0] for i in (0, 7, 8, 24, 99)
    ]
    assert weights == [5.0, 5.0, 10.0, 20.0, 20.0]


def test_logged_stage_losses_add_up_to_the_loss(make_cfg: Any) -> None:
    opts = ("MODEL.DISTILLER.WARMUP_EPOCHS", 0, "MODEL.DISTILLER.LOSS_WEIGHT", 2.0)
    losses, storage = losses_at(build_classifier(make_cfg(*opts)), 19)  # metrics are read then
    logged = {name: value for name, (value, _) in storage.latest().items()}
    stages = [logged[f"distiller/loss_{name}"] for name in ("stage1", "stage2", "stage3", "pooled")]
    assert losses["loss_distill"].item() == pytest.approx(2.0 * sum(stages), rel=1e-5)
    assert logged["distiller/gamma_global_stage1"] == 0.5
    assert logged["distiller/gamma_local_pooled"] == 0.5


def test_the_module_can_start_as_the_identity(make_cfg: Any) -> None:
    model = build_classifier(make_cfg("MODEL.DISTILLER.FAM.INIT", "identity"))
    _, storage = losses_at(model, 19)
    assert storage.latest()["distiller/gamma_local_stage1"][0] == 1.0


def test_accuracy_is_that_of_all_images_since_the_last_line(make_cfg: Any) -> None:
    model = build_classifier(make_cfg("MODEL.DISTILLER.NAME", "")).train()
    hits = 0
    for iteration, images in ((17, 4), (18, 1), (19, 3)):
        with EventStorage(iteration) as storage, torch.no_grad():
            model(batch(images))
            hits += int(
                (model.student(batch(images).images).argmax(1) == batch(images).labels).sum()
            )
    assert storage.latest()["train/top1"][0] == pytest.approx(100 * hits / 8)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("MODEL.STUDENT.NAME", ""), "MODEL.STUDENT.NAME: not given"),
        (("MODEL.STUDENT.NAME", "resnet9"), "MODEL.STUDENT: name: got 'resnet9'"),
        (("MODEL.TEACHER.WEIGHTS", "no/such.pth"), "MODEL.TEACHER: .*no/such.pth"),
        (("MODEL.DISTILLER.NAME", "KD2"), "MODEL.DISTILLER.NAME: got 'KD2', expected one of"),
        (("MODEL.DISTILLER.LOSS_WEIGHT", -1.0), "MODEL.DISTILLER.LOSS_WEIGHT: got -1.0"),
        (("MODEL.DISTILLER.LOSS", "l3"), "MODEL.DISTILLER: LOSS: got 'l3', expected one of"),
        (("MODEL.DISTILLER.FUSION", "sum"), "MODEL.DISTILLER: fusion: got 'sum'"),
        (("MODEL.DISTILLER.MID_CHANNELS", [8, 8]), "MID_CHANNELS: got .8, 8., expected none, one"),
        (("MODEL.DISTILLER.STUDENT_STAGES", [1, 2]), "STUDENT_STAGES, TEACHER_STAGES: got"),
        (("MODEL.DISTILLER.TEACHER_STAGES", [4]), "TEACHER_STAGES: got .4., expected rising"),
    ],
)
def test_wrong_options_name_the_key(make_cfg: Any, opts: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_classifier(make_cfg(*opts))


def test_one_image_and_a_pooled_stage_train(make_cfg: Any) -> None:
    model = build_classifier(make_cfg()).train()
    with EventStorage(0):
        losses = model(batch(1))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_teacher_weights_come_from_another_runs_checkpoint(make_cfg: Any, tmp_path: Path) -> None:
    run = build_classifier(make_cfg("MODEL.STUDENT.NAME", "resnet14"))
    torch.save({"model": run.state_dict(), "iteration": 5}, tmp_path / "model_best.pth")
    model = build_classifier(make_cfg("MODEL.TEACHER.WEIGHTS", str(tmp_path / "model_best.pth")))
    assert model.teacher is not None
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, run.state_dict()[name])


CIFAR_MEAN, CIFAR_STD = [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]  # the student's
OWN = {"PIXEL_MEAN": [0.5, 0.4, 0.3], "PIXEL_STD": [0.5, 0.25, 0.2]}


def test_the_teacher_sees_images_of_its_own_normalisation(make_cfg: Any, tmp_path: Path) -> None:
    """By its keys or by the config beside its checkpoint; the pixels are the same."""
    file = tmp_path / "teacher" / "model.pth"
    file.parent.mkdir()
    torch.save({"model": build_model("resnet14", 10).state_dict()}, file)
    (file.parent / "config.yaml").write_text(yaml.safe_dump({"INPUT": OWN}))
    keys = [part for key, x in OWN.items() for part in (f"MODEL.TEACHER.{key}", x)]
    pixels = torch.rand(2, 3, 32, 32)

    def normalised(mean: list[float], std: list[float]) -> Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    images = normalised(CIFAR_MEAN, CIFAR_STD)
    for opts in (keys, ["MODEL.TEACHER.WEIGHTS", str(file)]):
        model = build_classifier(make_cfg(*opts))
        seen: list[Tensor] = []
        model.teacher.conv1.register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        losses_at(model, 0)
        assert torch.equal(seen[0], model.teacher_images(batch().images))
        torch.testing.assert_close(model.teacher_images(images), normalised(*OWN.values()))
    assert torch.equal(build_classifier(make_cfg()).teacher_images(images), images)
    with pytest.raises(ValueError, match="MODEL.TEACHER.PIXEL_MEAN, .*: got .* expected three"):
        build_classifier(make_cfg("MODEL.TEACHER.PIXEL_STD", [1.0]))


def test_a_librarys_weights_say_what_images_they_take() -> None:
    imagenet = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert pretrained_weights("torchvision/resnet18", "IMAGENET1K_V1") == (*imagenet, 1000)
    pytest.importorskip("timm")
    half = ([0.5] * 3, [0.5] * 3)
    assert pretrained_weights("timm/resnetv2_50x1_bit", "goog_in21k") == (*half, 21843)


def test_a_teacher_that_does_not_know_the_classes_is_refused(
    make_cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torchvision.models.ResNet18_Weights
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: dict(state))
    names = ("MODEL.TEACHER.NAME", "torchvision/resnet18", "MODEL.TEACHER.WEIGHTS", "IMAGENET1K_V1")
    with pytest.raises(ValueError, match="'IMAGENET1K_V1' knows 1000 classes, not the data's 10"):
        build_classifier(make_cfg(*names))
