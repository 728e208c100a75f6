"""A student's keys out of its name: backbone, weights, and images as these have seen them."""

from difflib import get_close_matches
from pathlib import Path

from fam_det.modeling.backbones.pretrained_weights import NETWORKS
from fam_det.modeling.backbones.pretrained_weights import PREFIX as TORCHVISION
from fam_det.modeling.backbones.timm import PREFIX as TIMM
from fam_det.modeling.backbones.timm import check_name, import_timm, pixel_statistics
from fam_det.recipes.overrides import Choice, Choices

IMAGENET_MEAN = [123.675, 116.28, 103.53]  # RGB, as torchvision's networks were trained
IMAGENET_STD = [58.395, 57.12, 57.375]
BASIC_BLOCKS = (18, 34)  # depths of a ResNet without bottlenecks


def student_choices(
    name: str, weights: str | None, architecture: str, inputs: list[str]
) -> Choices:
    """Keys of the student's backbone.

    Args:
        name: one of torchvision's networks, such as "resnet18", or "timm://NAME".
        weights: "none" for random ones, anything ``MODEL.WEIGHTS`` takes, or None for ImageNet's.
        architecture: the student's meta-architecture, "GeneralizedRCNN" or "RetinaNet".
        inputs: of its FPN, such as ["res3", "res4", "res5"].

    Raises:
        ImportError: timm is asked for and not installed.
        ValueError: an unknown name, or weights that are not there.
    """
    check_student(name)
    is_timm = name.startswith(TIMM)
    kind = "timm" if is_timm else "mobilenet_v2" if name == "mobilenet_v2" else "resnet"
    node = {"timm": "TIMM", "mobilenet_v2": "MOBILENETV2", "resnet": "RESNETS"}[kind]
    prefix = "retinanet_" if architecture == "RetinaNet" else ""
    choices = {
        "MODEL.BACKBONE.NAME": Choice(f"build_{prefix}{kind}_fpn_backbone"),
        "MODEL.FPN.IN_FEATURES": Choice(inputs),
        f"MODEL.{node}.OUT_FEATURES": Choice(inputs),
        **_network(name, kind),
        **_images(name),
        "MODEL.WEIGHTS": _weights(name, weights),
    }
    if kind != "resnet" or weights == "none":
        choices["MODEL.BACKBONE.FREEZE_AT"] = Choice(0, "all of the backbone learns")
    if weights == "none":
        choices[f"MODEL.{node}.NORM"] = Choice("BN", "a frozen one diverges from random weights")
    return choices


def check_student(name: str) -> None:
    """Raises a ValueError for a name that is neither torchvision's nor timm's."""
    if name.startswith(TIMM):
        try:
            check_name("--student", name.removeprefix(TIMM))
        except ImportError as error:
            raise ValueError(f"--student: {name} needs timm: pip install timm") from error
    elif name not in NETWORKS:
        close = get_close_matches(name, NETWORKS, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"--student: got {name!r}{hint}, expected one of {', '.join(NETWORKS)}, or {TIMM}NAME "
            "for a network of timm"
        )


def _network(name: str, kind: str) -> Choices:
    """Which network of its kind."""
    if kind == "timm":
        return {"MODEL.TIMM.NAME": Choice(name.removeprefix(TIMM))}
    if kind == "mobilenet_v2":
        return {}
    depth = int(name.removeprefix("resnet"))
    if depth in BASIC_BLOCKS:
        return {
            "MODEL.RESNETS.DEPTH": Choice(depth),
            "MODEL.RESNETS.RES2_OUT_CHANNELS": Choice(64, "a ResNet without bottlenecks"),
        }
    return {
        "MODEL.RESNETS.DEPTH": Choice(depth),
        "MODEL.RESNETS.STRIDE_IN_1X1": Choice(False, "as in torchvision's ResNets"),
    }


def _images(name: str) -> Choices:
    """Channel order and normalisation that the ImageNet weights were trained with."""
    statistics = {"PIXEL_MEAN": IMAGENET_MEAN, "PIXEL_STD": IMAGENET_STD}
    if name.startswith(TIMM):
        statistics = pixel_statistics(name.removeprefix(TIMM), "RGB")
    library = "timm" if name.startswith(TIMM) else "torchvision"
    return {
        "INPUT.FORMAT": Choice("RGB", f"the order that {library}'s weights take"),
        **{f"MODEL.{key}": Choice(value) for key, value in statistics.items()},
    }


def _weights(name: str, weights: str | None) -> Choice:
    if weights == "none":
        return Choice("", "--student-weights none: from scratch")
    if weights is not None:
        if "://" not in weights and not Path(weights).is_file():
            raise ValueError(
                f"--student-weights: {weights} does not exist; give a checkpoint, 'none' to start "
                "from scratch, or leave it out for ImageNet's"
            )
        return Choice(weights)
    if not name.startswith(TIMM):
        return Choice(TORCHVISION + name, "trained on ImageNet")
    if not import_timm().is_model_pretrained(name.removeprefix(TIMM)):
        raise ValueError(
            f"--student: timm has no weights for {name}; add --student-weights none or a file"
        )
    return Choice(name, "trained on ImageNet")
