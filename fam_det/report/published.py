"""Published top-1 accuracies in percent, to set beside a report's own."""

# RepDistiller's README; ImageNet: ReviewKD's.
ALONE = {
    "cifar100": {
        "resnet56": 72.34,
        "resnet110": 74.31,
        "resnet32x4": 79.42,
        "ResNet50": 79.34,
        "wrn_40_2": 75.61,
        "vgg13": 74.64,
        "resnet20": 69.06,
        "resnet32": 71.14,
        "resnet8x4": 72.50,
        "wrn_16_2": 73.26,
        "wrn_40_1": 71.98,
        "vgg8": 70.36,
        "MobileNetV2": 64.60,
        "ShuffleV1": 70.50,
        "ShuffleV2": 71.82,
    },
    "imagenet": {"torchvision/resnet18": 69.75, "timm/mobilenetv1_100": 68.87},
}

# KD, FitNet and CRD: RepDistiller's README. DKD: mdistiller's. ImageNet: both ReviewKD's and
# mdistiller's.
# ReviewKD, FAM + ReviewKD and FAM-KD on CIFAR-100: the supplement of FAM-KD.
DISTILLED: dict[str, dict[str, dict[str, float]]] = {
    "cifar100": {
        "resnet56 → resnet20": {"KD": 70.66, "FitNet": 69.21, "CRD": 71.16, "DKD": 71.97},
        "resnet110 → resnet32": {
            **{"KD": 73.08, "FitNet": 71.06, "CRD": 73.48, "DKD": 74.11},
            **{"ReviewKD": 73.89, "FAM + ReviewKD": 74.28, "FAM-KD": 74.45},
        },
        "resnet110 → resnet20": {"KD": 70.67, "FitNet": 68.99, "CRD": 71.46},
        "resnet32x4 → resnet8x4": {
            **{"KD": 73.33, "FitNet": 73.50, "CRD": 75.51, "DKD": 76.32},
            **{"ReviewKD": 75.63, "FAM + ReviewKD": 76.19, "FAM-KD": 76.84},
        },
        "wrn_40_2 → wrn_16_2": {"KD": 74.92, "FitNet": 73.58, "CRD": 75.48, "DKD": 76.23},
        "wrn_40_2 → wrn_40_1": {"KD": 73.54, "FitNet": 72.24, "CRD": 74.14, "DKD": 74.81},
        "vgg13 → vgg8": {"KD": 72.98, "FitNet": 71.02, "CRD": 73.94, "DKD": 74.68},
        "vgg13 → MobileNetV2": {"KD": 67.37, "FitNet": 64.14, "CRD": 69.73, "DKD": 69.71},
        "ResNet50 → MobileNetV2": {"KD": 67.35, "FitNet": 63.16, "CRD": 69.11, "DKD": 70.35},
        "resnet32x4 → ShuffleV1": {"KD": 74.07, "FitNet": 73.59, "CRD": 75.11, "DKD": 76.45},
        "resnet32x4 → ShuffleV2": {"KD": 74.45, "FitNet": 73.54, "CRD": 75.65, "DKD": 77.07},
    },
    "imagenet": {
        "torchvision/resnet34 → torchvision/resnet18": {
            **{"KD": 71.03, "DKD": 71.70, "ReviewKD": 71.61},
        },
        "torchvision/resnet50 → timm/mobilenetv1_100": {
            **{"KD": 70.50, "DKD": 72.05, "ReviewKD": 72.56},
        },
    },
}


def published_score(data_set: str, pair: str, method: str) -> float | None:
    """The published figure of an experiment, None where there is none.

    Args:
        data_set: as ``DATASETS.NAME``.
        pair: "teacher → student", or the student for a method "alone".
        method: as of :attr:`fam_det.report.runs.Run.method`.
    """
    if method == "alone":
        return ALONE.get(data_set, {}).get(pair)
    return DISTILLED.get(data_set, {}).get(pair, {}).get(method)
