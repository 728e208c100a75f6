"""Published figures with their sources, which a report prints beside its own.

Of FAM-KD only the figures of its supplement are here.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fam_det.analysis.experiment import Experiment

SUPPLEMENT = "supplement of FAM-KD (arXiv 2403.05894)"
# gamma1 and gamma2 of each stage after training, the supplement's tables A.3 and A.4.
GAMMAS = {
    Experiment("imagenet", "torchvision/resnet34", "torchvision/resnet18", "FAM-KD"): {
        **{"stage1": (1.18, 0.42), "stage2": (3.33, 1.26)},
        **{"stage3": (3.78, 0.51), "stage4": (3.44, 0.16)},
    },
    Experiment("cifar100", "resnet32x4", "resnet8x4", "FAM-KD"): {
        **{"stage1": (5.65, 0.37), "stage2": (1.09, 0.20), "stage3": (1.59, 0.23)}
    },
}


@dataclass(frozen=True)
class PublishedScore:
    """A published score."""

    value: float  # top-1 in percent, or box AP
    source: str  # where it is printed
    images: int  # training images seen in all epochs together


def _read_scores() -> dict[Experiment, PublishedScore]:
    scores = {}
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            names = (row["data_set"], row["teacher"] or None, row["student"], row["method"])
            score = PublishedScore(float(row["score"]), row["source"], int(row["images"]))
            scores[Experiment(*names)] = score
    return scores


PUBLISHED_SCORES: Mapping[Experiment, PublishedScore] = _read_scores()
