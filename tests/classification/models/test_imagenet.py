"""The libraries' networks stay what they are, and show the stages the libraries themselves name."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from classification.models import build_model, load_weights, stage_features
from classification.models.imagenet import RESNET_STAGES, torchvision_names

# (C, H, W) of each stage for 224 pixels
STAGES = {
    "torchvision/resnet18": [
        (64, 56, 56),
        (64, 56, 56),
        (128, 28, 28),
        (256, 14, 14),
        (512, 7, 7),
    ],
    "torchvision/resnet50": [
        (64, 56, 56),
        (256, 56, 56),
        (512, 28, 28),
        (1024, 14, 14),
        (2048, 7, 7),
    ],
    "timm/mobilenetv1_100": [
        (64, 112, 112),
        (128, 56, 56),
        (256, 28, 28),
        (512, 14, 14),
        (1024, 7, 7),
    ],
}
NAMES = list(STAGES)


def network(name: str, num_classes: int = 10) -> Any:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return build_model(name, num_classes)


def images(size: int = 64) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, size, size)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", STAGES)
def test_stages_at_224_pixels(name: str) -> None:
    with torch.no_grad():
        features = stage_features(network(name).eval(), images(224)[:1])
    assert [tuple(x.shape[1:]) for x in features.maps] == STAGES[name]
    assert [tuple(x.shape[1:]) for x in features.preactivation] == STAGES[name]
    assert features.pooled.shape == (1, STAGES[name][-1][0])
    assert features.logits.shape == (1, 10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_a_map_is_the_activation_of_its_preactivation(name: str, training: bool) -> None:
    model = network(name).train(training)
    activation = nn.ReLU6() if name.startswith("timm/") else nn.ReLU()
    with torch.no_grad():
        features = stage_features(model, images())
    for x, preactivation in zip(features.maps[1:], features.preactivation[1:], strict=True):
        assert torch.equal(activation(preactivation), x)
        assert (preactivation < 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_librarys_own_and_gives_the_same_logits(name: str) -> None:
    model = network(name).eval()
    assert type(model).__module__.split(".")[0] == name.split("/")[0]
    with torch.no_grad():
        features = stage_features(model, images())
        assert torch.equal(features.logits, model(images()))
    assert hooks(model) == 0


def test_maps_are_those_of_torchvisions_extractor() -> None:
    model = network("torchvision/resnet18").eval()
    extractor = create_feature_extractor(model, [*RESNET_STAGES, "flatten"])
    with torch.no_grad():
        want = list(extractor(images()).values())
        features = stage_features(model, images())
    for x, y in zip([*features.maps, features.pooled], want, strict=True):
        assert torch.equal(x, y)


def test_maps_are_those_of_timms_extractor() -> None:
    timm = pytest.importorskip("timm")
    model = network("timm/mobilenetv1_100").eval()
    extractor = timm.create_model("mobilenetv1_100", features_only=True).eval()
    extractor.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        want, features = extractor(images()), stage_features(model, images())
    for x, y in zip(features.maps, want, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_from_every_map_and_statistics_move_once(name: str) -> None:
    model = network(name)
    features = stage_features(model, images())
    for x in (*features.maps, *features.preactivation, features.pooled, features.logits):
        (gradient,) = torch.autograd.grad(
            x.square().sum(), next(model.parameters()), retain_graph=True
        )
        assert gradient.any()
    norms: list[Any] = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {norm.num_batches_tracked.item() for norm in norms} == {1}


@pytest.mark.parametrize("name", NAMES)
def test_hooks_go_after_an_error(name: str) -> None:
    model = network(name)
    with pytest.raises(RuntimeError):
        stage_features(model, torch.zeros(1, 4, 64, 64))
    assert hooks(model) == 0


@pytest.mark.parametrize("name", ["timm/mobilenetv2_100", "torchvision/mobilenet_v2"])
def test_a_stage_without_an_activation_is_its_own_preactivation(name: str) -> None:
    with torch.no_grad():
        features = stage_features(network(name).eval(), images())
    shapes = [(16, 32, 32), (24, 16, 16), (32, 8, 8), (96, 4, 4), (320, 2, 2)]
    assert [tuple(x.shape[1:]) for x in features.maps] == shapes
    assert features.pooled.shape == (2, 1280)
    for x, preactivation in zip(features.maps, features.preactivation, strict=True):
        assert x is preactivation


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/swin_tiny_patch4_window7_224"])
def test_tokens_and_channels_last_are_refused(name: str) -> None:
    model = network(name).eval()
    size = model.default_cfg["input_size"][-1]
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"has a stage of shape .* expected \(N, C, H, W\)"),
    ):
        stage_features(model, torch.zeros(1, 3, size, size))


def test_a_checkpoint_file_loads_into_a_library_network(tmp_path: Path) -> None:
    model = network("torchvision/resnet18")
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    torch.manual_seed(1)
    other: Any = build_model("torchvision/resnet18", 10, weights=str(tmp_path / "model.pth"))
    assert torch.equal(other.fc.weight, model.fc.weight)
    with pytest.raises(ValueError, match="model.pth: not the weights of this ResNet"):
        load_weights(network("torchvision/resnet34"), tmp_path / "model.pth")


def test_torchvisions_weights_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    state = network("torchvision/resnet18", 1000).state_dict()
    asked = []

    def get_state_dict(self: Any, *, check_hash: bool = False) -> dict[str, Tensor]:
        assert check_hash  # of the file that is downloaded
        asked.append(str(self))
        return dict(state)

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    model: Any = build_model("torchvision/resnet18", 1000, "IMAGENET1K_V1")
    assert asked == ["ResNet18_Weights.IMAGENET1K_V1"]
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_weights_of_other_classes_come_with_a_new_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = network("torchvision/mobilenet_v2", 1000).state_dict()
    weights = torchvision.models.MobileNet_V2_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: dict(state))
    model = build_model("torchvision/mobilenet_v2", 6, "IMAGENET1K_V1")
    own = model.state_dict()
    new = {name for name in own if not torch.equal(own[name], state[name])}
    assert new == {"classifier.1.weight", "classifier.1.bias"}
    assert stage_features(model, images()).logits.shape == (2, 6)


def test_timms_weights_are_asked_for_by_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    plain, asked = timm.create_model("mobilenetv1_100"), []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return plain

    monkeypatch.setattr(timm, "create_model", create_model)
    build_model("timm/mobilenetv1_100", 1000, "ra4_e3600_r224_in1k")
    options = {"pretrained": True, "num_classes": 1000}
    assert asked == [("mobilenetv1_100.ra4_e3600_r224_in1k", options)]


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("torchvision/resnet19", "", "name: got 'torchvision/resnet19', expected .*'resnet18'"),
        ("torchvision/vgg11", "", "name: got 'torchvision/vgg11', expected .*'resnet18'"),
        ("torchvision/resnet18", "V3", "weights: got 'V3', expected a file or.*'IMAGENET1K_V1'"),
        ("timm/mobilenetv1_10", "", "name: got .* close ones: .*'mobilenetv1_100'"),
        ("timm/mobilenetv1_100.ra4_e3600_r224_in1k", "", "expected no tag; name it as weights"),
        (
            "timm/mobilenetv1_100",
            "V1",
            "got 'mobilenetv1_100.V1', expected .*'ra4_e3600_r224_in1k'",
        ),
    ],
)
def test_unknown_names_and_weights_say_what_exists(name: str, weights: str, message: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(ValueError, match=message):
        build_model(name, weights=weights)


def test_torchvisions_resnets_are_found() -> None:
    assert {"resnet18", "resnet34", "resnet50", "wide_resnet50_2"} <= set(torchvision_names())
