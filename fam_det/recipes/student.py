"""A student's keys from its name: backbone, weights, and the image format of these weights."""

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from fam_det.config import default_config
from fam_det.files.checkpoint_file import read_pickle
from fam_det.files.config_file import merge_config
from fam_det.modeling.backbones.pretrained_weights import NETWORKS
from fam_det.modeling.backbones.pretrained_weights import PREFIX as TORCHVISION
from fam_det.modeling.backbones.timm import PREFIX as TIMM
from fam_det.modeling.backbones.timm import check_name, import_timm, pixel_statistics
from fam_det.recipes.overrides import Override, Overrides, find_node, given_weights
from fam_det.training.detection import BACKBONES

from detectron2 import model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.model_zoo.model_zoo import _ModelZooUrls

# RGB, as torchvision's networks were trained.
IMAGENET_STATISTICS = {
    "PIXEL_MEAN": [123.675, 116.28, 103.53],
    "PIXEL_STD": [58.395, 57.12, 57.375],
}
INPUT_KEYS = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"),
    "MODEL.RESNETS.STRIDE_IN_1X1",
)
BASIC_BLOCKS = (18, 34)  # depths of a ResNet without bottlenecks


# By the flag of a network that of its weights.
WEIGHTS = {"--student": "--student-weights", "--train-teacher": "--teacher-weights"}


def student_overrides(
    name: str, weights: str | None, architecture: str, inputs: list[str], flag: str = "--student"
) -> Overrides:
    """Returns the keys of a trained detector's backbone.

    Args:
        name: one of torchvision's networks, such as "resnet18", or "timm://NAME".
        weights: "none" for random ones, anything ``MODEL.WEIGHTS`` takes, the zoo's name of a
            config, or None for ImageNet's.
        architecture: the detector's meta-architecture, "GeneralizedRCNN" or "RetinaNet".
        inputs: of its FPN, such as ["res3", "res4", "res5"].
        flag: key of ``WEIGHTS``, for errors.
    """
    check_student(name, flag)
    timm_name = name.removeprefix(TIMM) if name.startswith(TIMM) else ""
    kind = "timm" if timm_name else name if name in BACKBONES else "resnet"
    node = f"MODEL.{BACKBONES[kind]}"
    prefix = "retinanet_" if architecture == "RetinaNet" else ""
    library = "timm" if timm_name else "torchvision"
    statistics = pixel_statistics(timm_name, "RGB") if timm_name else IMAGENET_STATISTICS
    overrides = {
        "MODEL.BACKBONE.NAME": Override(f"build_{prefix}{kind}_fpn_backbone"),
        "MODEL.FPN.IN_FEATURES": Override(inputs),
        f"{node}.OUT_FEATURES": Override(inputs),
        "INPUT.FORMAT": Override("RGB", f"the order that {library}'s weights take"),
        **{f"MODEL.{key}": Override(value) for key, value in statistics.items()},
        "MODEL.WEIGHTS": _weights(name, weights, flag),
    }
    if kind == "timm":
        overrides["MODEL.TIMM.NAME"] = Override(timm_name)
    if kind == "resnet":
        overrides |= _resnet(int(name.removeprefix("resnet")))
    if weights and (trained := training_config(weights)):
        overrides |= {
            key: Override(find_node(trained, key), "as its weights")
            for key in INPUT_KEYS
            if key in overrides
        }
    if kind != "resnet" or weights == "none":
        overrides["MODEL.BACKBONE.FREEZE_AT"] = Override(0, "all of the backbone learns")
    if weights == "none":
        overrides[f"{node}.NORM"] = Override("BN", "a frozen one diverges from random weights")
    return overrides


def training_config(weights: str) -> CfgNode | None:
    """Returns the config with which a checkpoint was trained; None if unknown.

    It is the ``config.yaml`` in the same folder or the model zoo's; for Caffe's weights, such as
    MSRA's, it is Detectron2's default.
    """
    path = Path(weights)
    config_file = path.with_name("config.yaml")
    with suppress(ValueError):  # a config of another program
        if path.is_file() and config_file.is_file():
            merge_config(cfg := default_config(), config_file)
            return cfg
    if "ImageNetPretrained/MSRA/" in weights or _author(path) == "Caffe2":
        return get_cfg()
    for name, url in _ModelZooUrls.CONFIG_PATH_TO_URL_SUFFIX.items():
        if weights == f"{name}.yaml" or url.endswith(f"/{path.name}"):
            with suppress(RuntimeError):  # its config is in Python
                return model_zoo.get_config(f"{name}.yaml")
    return None


def _author(file: Path) -> str:
    """Returns the ``__author__`` of a ``.pkl``; "" for other files."""
    if file.suffix != ".pkl" or not file.is_file():
        return ""
    return str(read_pickle(file).get("__author__", "Caffe2"))


def weights_note(weights: str | None, flag: str = "--student") -> list[str]:
    """Returns a warning for weights whose image format is unknown."""
    if weights is None or weights == "none" or training_config(weights):
        return []
    imagenet = (TORCHVISION, TIMM, "detectron2://ImageNetPretrained/torchvision/")
    if weights.startswith(imagenet) or _author(Path(weights)) == "torchvision":
        return []
    return [
        f"{WEIGHTS[flag]} {weights}: nothing says what images it was trained on (there is no "
        "config.yaml beside it), taken to be as ImageNet's weights: if not, add INPUT.FORMAT, "
        "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and, of a ResNet, MODEL.RESNETS.STRIDE_IN_1X1"
    ]


def check_student(name: str, flag: str = "--student") -> None:
    """Raises a ValueError for a name that is neither torchvision's nor timm's."""
    if name.startswith(TIMM):
        try:
            check_name(flag, name.removeprefix(TIMM))
        except ImportError as error:
            raise ValueError(f"{flag}: {name} needs timm: pip install timm") from error
    elif name not in NETWORKS:
        close = get_close_matches(name, NETWORKS, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(
            f"{flag}: got {name!r}{hint}, expected one of {', '.join(NETWORKS)}, or {TIMM}NAME "
            "for a network of timm"
        )


def _resnet(depth: int) -> Overrides:
    overrides = {"MODEL.RESNETS.DEPTH": Override(depth)}
    if depth in BASIC_BLOCKS:
        channels = Override(64, "a ResNet without bottlenecks")
        return overrides | {"MODEL.RESNETS.RES2_OUT_CHANNELS": channels}
    stride = Override(False, "as in torchvision's ResNets")
    return overrides | {"MODEL.RESNETS.STRIDE_IN_1X1": stride}


def _weights(name: str, weights: str | None, flag: str) -> Override:
    if weights is not None:
        return given_weights(WEIGHTS[flag], weights)
    if not name.startswith(TIMM):
        return Override(TORCHVISION + name, "trained on ImageNet")
    if not import_timm().is_model_pretrained(name.removeprefix(TIMM)):
        raise ValueError(
            f"{flag}: timm has no weights for {name}; add --from-scratch, or a file as "
            f"{WEIGHTS[flag]}"
        )
    return Override(name, "trained on ImageNet")
