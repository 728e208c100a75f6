"""Control trainings of a distillation, which show the gain from the teacher."""

from pathlib import Path

import yaml


def controls(config: Path) -> dict[str, tuple[Path, list[str]]]:
    """Returns the folder and KEY VALUE pairs of control trainings of the same student, by title.

    The student alone has new heads. If the teacher sees larger images, the distillation's anchors
    are smaller than the teacher's, to suit inherited heads; new heads are better with anchors of
    the teacher's size: 27 AP instead of 14 in docs/studies/blood_cells_half_size.

    Args:
        config: file of a distillation, as ``tools/distill.py`` writes it.
    """
    content = yaml.safe_load(config.read_text())
    model, data = content["MODEL"], content["DATASETS"]
    teacher, student = model["TEACHER"], model.get("STUDENT", {})
    alone = ["MODEL.META_ARCHITECTURE", student.get("META_ARCHITECTURE", "GeneralizedRCNN")]
    scale = teacher.get("INPUT_SCALE", 1.0)
    if scale > 1 and teacher.get("MATCH") != "same_scale":
        sizes = [[scale * x for x in level] for level in model["ANCHOR_GENERATOR"]["SIZES"]]
        alone += ["MODEL.ANCHOR_GENERATOR.SIZES", str(sizes)]
    if unlabelled := data.get("UNLABELLED"):
        names = tuple(name for name in data["TRAIN"] if name not in unlabelled)
        alone += ["DATASETS.TRAIN", str(names), "DATASETS.UNLABELLED", "[]"]
        alone += ["DATASETS.TRAIN_SHARES", "[]"]
    trainings = {"student alone": (config.parent / "alone", alone)}
    if teacher.get("INHERIT"):
        without_loss = ["MODEL.DISTILLER.LOSS_WEIGHT", "0.0", "MODEL.DISTILLER.HEAD_WEIGHT", "0.0"]
        trainings["teacher's heads, no loss"] = (config.parent / "heads", without_loss)
    return trainings
