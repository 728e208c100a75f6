"""The CIFAR networks have the released names, shapes and outputs, and show their stages rightly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classification.models import MODEL_REGISTRY, Features, build_model, stage_features
from tests.classification.models.name_weights import fingerprint, name_images, set_name_weights

# {network: {"parameters": {name: shape}, "stage_shapes": [[C, H, W]], "pooled": [C]}}
FACTS = json.loads((Path(__file__).parent / "cifar_state_dicts.json").read_text())
# Outputs of the released networks in eval mode for the weights and images of name_weights.py, in
# torch 2.14 on a CPU: the first four logits, and fingerprints. NAME@64 is for images of 64 pixels.
RELEASED = json.loads((Path(__file__).parent / "released_outputs.json").read_text())
NAMES = sorted(FACTS)
# Their stages end in a sum without a ReLU.
LINEAR_STAGES = ["wrn_16_1", "MobileNetV2"]
# One of each kind.
KINDS = ["resnet8", "ResNet18", "ResNet50", "wrn_16_1", "vgg8", "MobileNetV2"]
KINDS += ["ShuffleV1", "ShuffleV2"]
RELU_STAGES = [name for name in KINDS if name not in LINEAR_STAGES]
every_kind = pytest.mark.parametrize("name", KINDS)


def network(name: str, num_classes: int = 100) -> Any:
    torch.manual_seed(0)
    return build_model(name, num_classes)


def shapes(tensors: Any) -> list[list[int]]:
    return [list(x.shape[1:]) for x in tensors]


def batch_norms(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def assert_fingerprint(x: Tensor, want: list[float]) -> None:
    """Both numbers, to 1e-4 of the root mean square."""
    assert fingerprint(x) == pytest.approx(want, abs=1e-4 * want[0])


def test_the_registry_holds_the_networks_of_the_papers() -> None:
    assert sorted(MODEL_REGISTRY) == NAMES
    assert len(NAMES) == 23


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_those_of_the_released_checkpoints(name: str) -> None:
    state = network(name).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == FACTS[name]["parameters"]


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_outputs_are_the_released_ones(name: str) -> None:
    name, _, size = name.partition("@")
    want = RELEASED[f"{name}@{size}" if size else name]
    model = network(name).eval()
    set_name_weights(model)
    with torch.no_grad():
        got = model.features(name_images(int(size or 32)))
    scale = want["all_logits"][0]
    assert got.logits[0, :4].tolist() == pytest.approx(want["logits"], abs=1e-4 * scale)
    assert_fingerprint(got.logits, want["all_logits"])
    assert_fingerprint(got.pooled, want["pooled"])
    for maps in ("maps", "preactivation"):
        for x, numbers in zip(getattr(got, maps), want[maps], strict=True):
            assert_fingerprint(x, numbers)


@pytest.mark.parametrize("name", NAMES)
def test_stages_have_the_released_shapes(name: str) -> None:
    model = network(name, num_classes=7).eval()
    x = name_images(32)
    with torch.no_grad():
        features = stage_features(model, x)
        logits = model(x)
    assert shapes(features.maps) == FACTS[name]["stage_shapes"]
    assert shapes(features.preactivation) == FACTS[name]["stage_shapes"]
    assert shapes([features.pooled]) == [FACTS[name]["pooled"]]
    assert features.preactivation[0] is features.maps[0]
    assert logits.shape == (2, 7)
    torch.testing.assert_close(features.logits, logits, rtol=0, atol=0)


@every_kind
def test_images_of_other_sizes_give_logits(name: str) -> None:
    with torch.no_grad():
        features = network(name).eval().features(torch.zeros(1, 3, 40, 48))
    assert features.logits.shape == (1, 100)
    assert shapes([features.pooled]) == [FACTS[name]["pooled"]]


@pytest.mark.parametrize("name", RELU_STAGES)
def test_a_map_is_the_relu_of_its_preactivation(name: str) -> None:
    with torch.no_grad():
        features: Features = network(name).features(name_images(32))
    for x, preactivation in zip(features.maps, features.preactivation, strict=True):
        activated = preactivation.relu()
        if name == "ShuffleV2" and x is not features.maps[0]:
            activated = nn.functional.channel_shuffle(activated, 2)
        assert torch.equal(activated, x)
    assert all((x < 0).any() for x in features.preactivation[1:])


def test_mobilenet_has_no_relu_at_the_end_of_a_stage() -> None:
    features = network("MobileNetV2").features(name_images(32))
    for x, preactivation in zip(features.maps, features.preactivation, strict=True):
        assert x is preactivation
    assert all((x < 0).any() for x in features.maps[1:])


@pytest.mark.parametrize("training", [True, False])
def test_a_wide_preactivation_is_the_map_behind_the_next_norm(training: bool) -> None:
    model = network("wrn_16_2").train(training)
    set_name_weights(model)
    features = model.features(name_images(32))
    norms = [model.block2.layer[0].bn1, model.block3.layer[0].bn1, model.bn1]
    for x, preactivation, norm in zip(
        features.maps[1:], features.preactivation[1:], norms, strict=True
    ):
        assert torch.equal(norm(x), preactivation)


@every_kind
def test_a_training_step_updates_each_running_statistic_once(name: str) -> None:
    model = network(name)
    with torch.no_grad():
        model.features(name_images(32))
    assert {norm.num_batches_tracked.item() for norm in batch_norms(model)} == {1}


def test_running_statistics_move_a_tenth_of_the_way() -> None:
    model = network("wrn_16_1")
    features = model.features(name_images(32))
    # from 0, with momentum 0.1; the released code moves 0.19 of the way
    mean = features.maps[1].mean((0, 2, 3))
    torch.testing.assert_close(model.block2.layer[0].bn1.running_mean, 0.1 * mean)


@every_kind
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = network(name)
    model(name_images(32)).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_kind
def test_gradients_reach_what_is_below_each_map(name: str) -> None:
    model = network(name)
    features = model.features(name_images(32))
    stem = next(iter(model.parameters()))
    for x in (*features.maps, *features.preactivation, features.pooled):
        (gradient,) = torch.autograd.grad(x.square().sum(), stem, retain_graph=True)
        assert gradient.any()


@every_kind
def test_no_relu_works_in_place(name: str) -> None:
    assert not any(getattr(module, "inplace", False) for module in network(name).modules())


@pytest.mark.parametrize("name", ["resnet56", "ResNet18", "wrn_40_2", "vgg13", "MobileNetV2"])
def test_convolutions_start_with_hes_variance_over_fan_out(name: str) -> None:
    for module in network(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.weight[0, 0].numel()
            want = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(want, rel=0.03)
