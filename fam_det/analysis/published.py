"""Published figures with their sources, which a report prints beside its own.

Of FAM-KD only the figures of its supplement are here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fam_det.analysis.experiment import ALONE, Experiment

SUPPLEMENT = "supplement of FAM-KD (arXiv 2403.05894)"
REPDISTILLER = "README of RepDistiller"
MDISTILLER = "README of mdistiller"
REVIEWKD = "README of ReviewKD"
MODEL_ZOO = "Detectron2's model zoo"


@dataclass(frozen=True)
class Figure:
    """A published score.

    Attributes:
        value: top-1 in percent, or box AP.
        source: where it is printed.
        images: number of training images seen in all epochs together.
    """

    value: float
    source: str
    images: int


CIFAR_IMAGES, IMAGENET_IMAGES = 240 * 50_000, 100 * 1_281_167
# Detectron2's schedules "1x" and "3x", batches of 16.
ONE, THREE = 90_000 * 16, 270_000 * 16

CIFAR_ALONE = {
    **{"resnet56": 72.34, "resnet110": 74.31, "resnet32x4": 79.42, "ResNet50": 79.34},
    **{"wrn_40_2": 75.61, "vgg13": 74.64, "resnet20": 69.06, "resnet32": 71.14},
    **{"resnet8x4": 72.50, "wrn_16_2": 73.26, "wrn_40_1": 71.98, "vgg8": 70.36},
    **{"MobileNetV2": 64.60, "ShuffleV1": 70.50, "ShuffleV2": 71.82},
}
CIFAR_PEERS: dict[tuple[str, str], tuple[float, float, float, float | None]] = {
    # KD, FitNet, CRD: RepDistiller. DKD: mdistiller.
    ("resnet56", "resnet20"): (70.66, 69.21, 71.16, 71.97),
    ("resnet110", "resnet32"): (73.08, 71.06, 73.48, 74.11),
    ("resnet110", "resnet20"): (70.67, 68.99, 71.46, None),
    ("resnet32x4", "resnet8x4"): (73.33, 73.50, 75.51, 76.32),
    ("wrn_40_2", "wrn_16_2"): (74.92, 73.58, 75.48, 76.23),
    ("wrn_40_2", "wrn_40_1"): (73.54, 72.24, 74.14, 74.81),
    ("vgg13", "vgg8"): (72.98, 71.02, 73.94, 74.68),
    ("vgg13", "MobileNetV2"): (67.37, 64.14, 69.73, 69.71),
    ("ResNet50", "MobileNetV2"): (67.35, 63.16, 69.11, 70.35),
    ("resnet32x4", "ShuffleV1"): (74.07, 73.59, 75.11, 76.45),
    ("resnet32x4", "ShuffleV2"): (74.45, 73.54, 75.65, 77.07),
}
CIFAR_FAM = {
    ("resnet110", "resnet32"): {
        **{"FAM-KD": 74.45, "FAM-KD, butterworth HPF": 74.50, "FAM-KD, gaussian HPF": 74.49},
        **{"ReviewKD": 73.89, "FAM + ReviewKD": 74.28},
    },
    ("resnet32x4", "resnet8x4"): {
        **{"FAM-KD": 76.84, "FAM-KD, butterworth HPF": 76.71, "FAM-KD, gaussian HPF": 76.75},
        **{"ReviewKD": 75.63, "FAM + ReviewKD": 76.19},
    },
}
R34_R18 = ("torchvision/resnet34", "torchvision/resnet18")
R50_MOBILENET = ("torchvision/resnet50", "timm/mobilenetv1_100")
IMAGENET = {
    (None, R34_R18[1], ALONE): (69.75, REVIEWKD),
    (None, R50_MOBILENET[1], ALONE): (68.87, REVIEWKD),
    (*R34_R18, "ReviewKD"): (71.61, REVIEWKD),
    (*R34_R18, "KD"): (71.03, MDISTILLER),
    (*R34_R18, "DKD"): (71.70, MDISTILLER),
    (*R50_MOBILENET, "ReviewKD"): (72.56, REVIEWKD),
    (*R50_MOBILENET, "KD"): (70.50, MDISTILLER),
    (*R50_MOBILENET, "DKD"): (72.05, MDISTILLER),
}
COCO = {
    "Faster R-CNN R101-FPN": (42.0, THREE),
    "Faster R-CNN R50-FPN": (37.9, ONE),
    "Mask R-CNN R50-FPN": (41.0, THREE),
    "RetinaNet R101-FPN": (40.4, THREE),
    "RetinaNet R50-FPN": (37.4, ONE),
}
# gamma1 and gamma2 of each stage after training, the supplement's tables A.3 and A.4.
GAMMAS = {
    Experiment("imagenet", *R34_R18, "FAM-KD"): {
        **{"stage1": (1.18, 0.42), "stage2": (3.33, 1.26)},
        **{"stage3": (3.78, 0.51), "stage4": (3.44, 0.16)},
    },
    Experiment("cifar100", "resnet32x4", "resnet8x4", "FAM-KD"): {
        **{"stage1": (5.65, 0.37), "stage2": (1.09, 0.20), "stage3": (1.59, 0.23)}
    },
}


def _collect() -> dict[Experiment, Figure]:
    figures = {
        Experiment("cifar100", None, name, ALONE): Figure(value, REPDISTILLER, CIFAR_IMAGES)
        for name, value in CIFAR_ALONE.items()
    }
    for pair, values in CIFAR_PEERS.items():
        for method, peer in zip(("KD", "FitNet", "CRD", "DKD"), values, strict=True):
            if peer is not None:
                source = MDISTILLER if method == "DKD" else REPDISTILLER
                key = Experiment("cifar100", *pair, method)
                figures[key] = Figure(peer, source, CIFAR_IMAGES)
    for pair, fam in CIFAR_FAM.items():
        for method, value in fam.items():
            key = Experiment("cifar100", *pair, method)
            figures[key] = Figure(value, SUPPLEMENT, CIFAR_IMAGES)
    for names, (value, source) in IMAGENET.items():
        figures[Experiment("imagenet", *names)] = Figure(value, source, IMAGENET_IMAGES)
    for name, (value, images) in COCO.items():
        key = Experiment("coco_2017_train", None, name, ALONE)
        figures[key] = Figure(value, MODEL_ZOO, images)
    return figures


FIGURES: Mapping[Experiment, Figure] = _collect()
