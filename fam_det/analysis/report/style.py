"""Colours and files of the plots."""

import re
import zlib
from collections.abc import Collection
from pathlib import Path

from matplotlib.figure import Figure

from fam_det.analysis.report.experiment import ALONE

# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#777777"
METHODS = {
    **{ALONE: GREY, "FAM-KD": BLUE, "FAM + ReviewKD": VERMILION, "ReviewKD": GREEN},
    **{"layer-to-layer FAM": SKY, "KD": ORANGE, "DKD": PURPLE, "CRD": BLACK},
}
OTHERS = (PURPLE, BLACK, ORANGE, SKY)
STAGES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
LINES = ("-", "--", ":", "-.")


def method_colour(method: str) -> str:
    """The colour of a method, the same in every report; a variant has its method's."""
    for name in (method, method.partition(",")[0]):
        if name in METHODS:
            return METHODS[name]
    return OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


def file_name(words: str, taken: Collection[str]) -> str:
    """A name for a plot that is not taken, such as ``gammas_fam_kd_s1.png``."""
    stem = re.sub(r"[^a-z0-9.-]+", "_", words.lower()).strip("_")
    name, number = f"{stem}.png", 2
    while name in taken:
        name, number = f"{stem}_{number}.png", number + 1
    return name


def save(figure: Figure, file: Path, *, sharp: bool = False) -> None:
    """Write a PNG; ``sharp`` for a small one that screens show at its size in inches."""
    figure.savefig(file, dpi=200 if sharp else 120)
