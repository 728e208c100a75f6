"""ImageNet networks of torchvision (``torchvision/resnet50``) and of timm.

They are the libraries' modules with the libraries' parameter names; hooks record their stages. timm
is imported only when one of its networks is built.

Legend: N batch, C channels, H and W map size.
"""

from contextlib import ExitStack
from typing import Any, NamedTuple

import torchvision.models
from torch import Tensor, nn

from classification.models.base import Features
from fam_det.modeling.backbones.timm import check_name, import_timm

TORCHVISION_PREFIX = "torchvision/"
TIMM_PREFIX = "timm/"
RESNET_STAGES = ["maxpool", "layer1", "layer2", "layer3", "layer4"]
MOBILENET_STAGES = [f"features.{i}" for i in (1, 3, 6, 13, 17)]  # the last of each stride
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU)


def torchvision_names() -> list[str]:
    """Lists torchvision's ResNets and its MobileNetV2."""
    homes = {torchvision.models.resnet.__name__, torchvision.models.mobilenetv2.__name__}
    return [
        name
        for name in torchvision.models.list_models(torchvision.models)
        if torchvision.models.get_model_builder(name).__module__ in homes
    ]


def build_torchvision(name: str, num_classes: int, weights: str) -> nn.Module:
    """Builds a torchvision network, by its name without the prefix.

    Its classifier has random weights if the pretrained one has another number of classes.
    """
    if name not in torchvision_names():
        raise ValueError(
            f"name: got {TORCHVISION_PREFIX + name!r}, expected {TORCHVISION_PREFIX} and one of "
            f"{torchvision_names()}"
        )
    known = {entry.name: entry for entry in torchvision.models.get_model_weights(name)}
    if weights and weights not in known:
        raise ValueError(
            f"weights: got {weights!r}, expected a file or, for {TORCHVISION_PREFIX}{name}, one of "
            f"{list(known)}"
        )
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    if weights:
        state = model.state_dict()
        pretrained = known[weights].get_state_dict(check_hash=True)
        model.load_state_dict(
            {k: x if x.shape == state[k].shape else state[k] for k, x in pretrained.items()}
        )
    return model


def build_timm(name: str, num_classes: int, weights: str) -> nn.Module:
    """Builds a timm network, by its name without the prefix; ``weights`` is timm's tag."""
    if "." in name:  # a tag in the name would suggest pretrained weights
        raise ValueError(f"name: got {TIMM_PREFIX + name!r}, expected no tag; name it as weights")
    full_name = f"{name}.{weights}" if weights else name
    check_name("name", full_name)
    model: nn.Module = import_timm().create_model(
        full_name, pretrained=bool(weights), num_classes=num_classes
    )
    if not getattr(model, "feature_info", None):
        raise ValueError(f"name: {TIMM_PREFIX}{name} has no feature_info that lists its stages")
    return model


class PretrainedWeights(NamedTuple):
    """Facts about pretrained weights: mean and deviation of the images, and classes."""

    mean: list[float]
    std: list[float]
    num_classes: int


def pretrained_weights(name: str, weights: str) -> PretrainedWeights:
    """Returns a library's facts about its weights."""
    known: Any
    if name.startswith(TORCHVISION_PREFIX):
        entries = torchvision.models.get_model_weights(name.removeprefix(TORCHVISION_PREFIX))
        entry = next(entry for entry in entries if entry.name == weights)
        known = entry.transforms()
        num_classes = len(entry.meta["categories"])
    else:
        known = import_timm().get_pretrained_cfg(f"{name.removeprefix(TIMM_PREFIX)}.{weights}")
        num_classes = known.num_classes
    return PretrainedWeights(list(known.mean), list(known.std), num_classes)


def library_features(model: nn.Module, x: Tensor) -> Features:
    """Returns stage maps, pooled feature and logits of images (N, 3, H, W).

    A torchvision ResNet has five maps, of stride 4 (the stem after its pooling), 4, 8, 16 and 32, a
    MobileNetV2 of 2 to 32, a timm network those of its ``feature_info``. The pre-activation of a
    stage that does not end in an activation is the map itself.
    """
    stages, classifier = stage_modules(model)
    maps: list[Tensor] = []
    preactivation: list[Tensor] = []
    pooled: list[Tensor] = []
    last_activation: dict[str, Tensor] = {}

    def record_activation(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        last_activation.update(before=args[0], after=output)

    def record_stage(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        # A stage ends in an activation if it returns the very tensor that one returned.
        is_activated = last_activation.get("after") is output
        maps.append(output)
        preactivation.append(last_activation["before"] if is_activated else output)

    def record_pooled(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        pooled.append(args[0])

    with ExitStack() as stack:
        # Activations first: a stage may be one.
        modules: list[Any] = list(model.modules())
        for module in modules:
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # it would overwrite a pre-activation
            if isinstance(module, ACTIVATIONS):
                stack.enter_context(module.register_forward_hook(record_activation))
        for stage in stages:
            stack.enter_context(stage.register_forward_hook(record_stage))
        stack.enter_context(classifier.register_forward_pre_hook(record_pooled))
        logits = model(x)
    info = getattr(model, "feature_info", None)
    channels = [stage["num_chs"] for stage in info] if info else [x.shape[1] for x in maps]
    for y, c in zip(maps, channels, strict=True):
        if y.dim() != 4 or y.shape[1] != c:  # the tokens of a transformer, or channels last
            raise ValueError(
                f"model: {type(model).__name__} has a stage of shape {tuple(y.shape)}, "
                f"expected (N, C, H, W) with C = {c}"
            )
    return Features(maps, preactivation, pooled[0], logits)


def stage_modules(model: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """Returns the modules whose outputs are the stages, and the classifier."""
    network: Any = model
    if isinstance(model, torchvision.models.ResNet):
        names, classifier = RESNET_STAGES, network.fc
    elif isinstance(model, torchvision.models.MobileNetV2):
        names, classifier = MOBILENET_STAGES, network.classifier
    elif getattr(model, "feature_info", None) and hasattr(model, "get_classifier"):
        names = [stage["module"] for stage in network.feature_info]
        classifier = network.get_classifier()
    else:
        raise TypeError(
            f"model: got {type(model).__name__}, expected a network of this package's build_model, "
            "a torchvision ResNet or MobileNetV2, or a timm network with feature_info"
        )
    return [model.get_submodule(name) for name in names], classifier
