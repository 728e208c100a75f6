"""Trainings beside a distillation that say what the teacher was worth."""

from pathlib import Path

import yaml


def controls(config: Path) -> dict[str, tuple[Path, list[str]]]:
    """Returns folder and keys of the same student in other trainings, by title.

    Args:
        config: of a distillation, as ``tools/distill.py`` writes it.
    """
    found = {"student alone": (config.parent / "alone", _alone_options(config))}
    if yaml.safe_load(config.read_text())["MODEL"]["TEACHER"].get("INHERIT"):
        without_loss = ["MODEL.DISTILLER.LOSS_WEIGHT", "0.0"]
        found["teacher's heads, no loss"] = (config.parent / "heads", without_loss)
    return found


def _alone_options(config: Path) -> list[str]:
    """Returns the keys that make a config that of its student alone, with new heads.

    Small anchors suit the heads of a teacher that sees larger images. Without these heads the
    teacher's own are better: 27 AP instead of 14 in docs/studies/blood_cells_half_size.
    """
    content = yaml.safe_load(config.read_text())
    model, data = content["MODEL"], content["DATASETS"]
    architecture = model.get("STUDENT", {}).get("META_ARCHITECTURE", "GeneralizedRCNN")
    scale = model["TEACHER"].get("INPUT_SCALE", 1.0)
    keys = ["MODEL.META_ARCHITECTURE", architecture]
    if scale > 1 and model["TEACHER"].get("MATCH") != "same_scale":
        sizes = [[scale * x for x in level] for level in model["ANCHOR_GENERATOR"]["SIZES"]]
        keys += ["MODEL.ANCHOR_GENERATOR.SIZES", str(sizes)]
    if unlabelled := data.get("UNLABELLED"):
        names = tuple(name for name in data["TRAIN"] if name not in unlabelled)
        keys += ["DATASETS.TRAIN", str(names), "DATASETS.UNLABELLED", "[]"]
        keys += ["DATASETS.TRAIN_SHARES", "[]"]
    return keys
