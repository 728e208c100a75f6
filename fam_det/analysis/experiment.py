"""Names the experiment of a run from its config, and groups runs that differ in their seed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from fam_det.analysis.runs import Run, flatten

ALONE = "student alone"
HEADS, NO_LOSS = "teacher's heads, no loss", "no distillation loss"
REVIEWS = {
    ("cross_attention", "fam"): "FAM-KD",
    ("abf", "fam"): "FAM + ReviewKD",
    ("abf", "conv3x3"): "ReviewKD",
}
TRANSFORMS = {"fam": "FAM", "conv3x3": "3x3 convolution"}
# Names mention only other filters than these.
DEFAULT_FILTER = {"classification": "dense", "detection": "separable"}
DEFAULT_HIGH_PASS = "ideal"
# The seed, and keys without an effect on the trained weights.
NO_EFFECT = re.compile(
    r"SEED|OUTPUT_DIR|DATASETS\.(COCO|ROOT)|VERSION|VIS_PERIOD|CUDNN_BENCHMARK|MODEL\.DEVICE|DATALOADER\.NUM_WORKERS"
    r"|MODEL\.TEACHER\.CACHE\w*|DETERMINISTIC|DATASETS\.DOWNLOAD|SOLVER\.CHECKPOINT_\w+"
    r"|TEST\.(EVAL_\w+|EXPECTED_RESULTS|IMS_PER_BATCH)"
)
NAMES = ("DATASETS.TRAIN", "DATASETS.TEST", "DATASETS.UNLABELLED")
TEACHER_KEYS = ("MODEL.TEACHER.", "MODEL.DISTILLER.", "MODEL.STUDENT.META")


@dataclass(frozen=True)
class Experiment:
    """A student's training: names of data set, networks and method; no teacher if alone."""

    data_set: str
    teacher: str | None
    student: str
    method: str


def describe(run: Run) -> Experiment:
    """Names the experiment of a run."""
    model = run.config["MODEL"]
    if run.task == "classification":
        student, teacher = str(model["STUDENT"]["NAME"]), str(model["TEACHER"]["NAME"])
    else:
        config = Path(model.get("TEACHER", {}).get("CONFIG", ""))
        # A teacher that was trained here is named by its output folder.
        teacher = config.parent.name if config.stem == "config" else config.stem
        student = name_detector(model)
    if not is_distilled(run):
        return Experiment(name_data_set(run), None, student, ALONE)
    node = model["DISTILLER"]
    method = name_method(node, run.task)
    if node.get("LOSS_WEIGHT") == 0:
        method = HEADS if model["TEACHER"].get("INHERIT") else NO_LOSS
    if node.get("HEAD_WEIGHT", 0) > 0:
        method = "heads' loss" if method in (HEADS, NO_LOSS) else f"{method}, heads' loss"
    return Experiment(name_data_set(run), teacher, student, method)


def is_distilled(run: Run) -> bool:
    """Returns whether the student has a teacher."""
    model = run.config["MODEL"]
    if run.task == "classification":
        return bool(model["DISTILLER"]["NAME"])
    return bool(model["META_ARCHITECTURE"] == "DistilledDetector")


def name_data_set(run: Run) -> str:
    """Names the training data."""
    node = run.config["DATASETS"]
    if run.task == "detection":
        return ", ".join(run.names.get(name, name) for name in node["TRAIN"])
    subset = node.get("TRAIN_SUBSET", 0)
    return name_test_set(run) + (f", {subset} images" if subset else "")


def name_test_set(run: Run) -> str:
    """Names the first test data: only scores on the same data can be compared.

    A folder of images has its own name.
    """
    node = run.config["DATASETS"]
    if run.task == "detection":
        tests = (run.names.get(name, name) for name in node.get("TEST") or ())
        return next(tests, "") or name_data_set(run)
    name = Path(node["ROOT"]).resolve().name if node["NAME"] == "folder" else str(node["NAME"])
    held_out = node.get("VALIDATION", 0)
    return run.names.get(name, name) + (f" ({held_out} held out)" if held_out else "")


def unify_names(runs: Sequence[Run]) -> list[Run]:
    """Gives data sets of the same content one name, and those of different contents different ones.

    A user's names take precedence over those of ``tools/distill.py``.
    """
    names: dict[str, str] = {}  # by content
    pairs = [(name, content or name) for run in runs for name, content in run.data.items()]
    for name, content in sorted(pairs, key=lambda pair: pair[0].startswith("distill_")):
        numbered = chain([name], (f"{name} ({number})" for number in count(2)))
        if content not in names:
            names[content] = next(x for x in numbered if x not in names.values())
    return [
        replace(run, names={name: names[content or name] for name, content in run.data.items()})
        for run in runs
    ]


def name_method(node: dict[str, Any], task: str) -> str:
    """Names the method of a ``MODEL.DISTILLER`` node, with filters other than the default."""
    if node["NAME"] == "KnowledgeReviewDistiller":
        fusion, transform = node["FUSION"], node["TRANSFORM"]
        name = REVIEWS.get((fusion, transform), f"review ({fusion}, {transform})")
    elif node["NAME"] == "LayerToLayerDistiller":
        name = f"layer-to-layer {TRANSFORMS.get(node['TRANSFORM'], node['TRANSFORM'])}"
    else:
        return str(node["NAME"])
    if node["TRANSFORM"] != "fam":
        return name
    fam = node["FAM"]
    if fam["HIGH_PASS"] != DEFAULT_HIGH_PASS:
        name += ", no HPF" if fam["HIGH_PASS"] == "none" else f", {fam['HIGH_PASS']} HPF"
    if fam["FILTER"] != DEFAULT_FILTER[task]:
        name += f", {fam['FILTER']} filter"
    return name


def name_detector(model: dict[str, Any]) -> str:
    """Names a detector as papers do, such as ``Faster R-CNN R18-FPN``."""
    kind = model["META_ARCHITECTURE"]
    if kind == "DistilledDetector":
        kind = model["STUDENT"]["META_ARCHITECTURE"]
    if kind == "GeneralizedRCNN":
        kind = "Faster R-CNN"
        if model.get("MASK_ON") or model.get("KEYPOINT_ON"):
            kind = "Mask R-CNN" if model.get("MASK_ON") else "Keypoint R-CNN"
        if "Cascade" in model["ROI_HEADS"]["NAME"]:
            kind = f"Cascade {kind}"
    return f"{kind} {name_backbone(model)}"


def name_backbone(model: dict[str, Any]) -> str:
    """Names a backbone, such as ``R50-FPN`` or ``MobileNetV2 0.35-FPN``."""
    builder = str(model["BACKBONE"]["NAME"])
    if "mobilenet_v2" in builder:
        width = model["MOBILENETV2"]["WIDTH_MULT"]
        name = "MobileNetV2" if width == 1 else f"MobileNetV2 {width}"
    elif "resnet" in builder:
        name = f"R{model['RESNETS']['DEPTH']}"
    else:
        return builder.removeprefix("build_").removesuffix("_backbone")
    return f"{name}-FPN" if "fpn" in builder else f"{name}-C4"


def relevant_values(run: Run) -> dict[str, Any]:
    """Returns the config values, by key, that have an effect on the trained weights, but the seed.

    The teacher in the config of a student alone has none.
    """
    ignored = () if is_distilled(run) else TEACHER_KEYS
    return {
        key: [run.names.get(name, name) for name in value] if key in NAMES else value
        for key, value in flatten(run.config).items()
        if not NO_EFFECT.fullmatch(key) and not key.startswith(ignored)
    }


def differing_keys(first: Run, second: Run) -> set[str]:
    """Returns the keys with different values; keys that one lacks are of another version."""
    a, b = relevant_values(first), relevant_values(second)
    return {key for key in a.keys() & b.keys() if a[key] != b[key]}


def group_seeds(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups runs that differ only in the seed, in the order of the first run of each."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if describe(group[0]) == describe(run) and not differing_keys(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def settings(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Returns the differences between groups of one experiment, such as ``LOSS_WEIGHT 5.0``."""
    texts = []
    for group in groups:
        peers = [peer for peer in groups if describe(peer[0]) == describe(group[0])]
        keys = sorted(set().union(*(differing_keys(group[0], peer[0]) for peer in peers)))
        values = relevant_values(group[0])
        texts.append(", ".join(f"{key.rpartition('.')[2]} {values[key]}" for key in keys))
    return texts


def teacher_folders(run: Run) -> set[Path]:
    """Returns the folders of the config and the checkpoint of a run's teacher."""
    node = run.config["MODEL"].get("TEACHER", {}) if is_distilled(run) else {}
    files = [Path(node.get(key) or "") for key in ("CONFIG", "WEIGHTS")]
    return {file.resolve().parent for file in files if file.suffix}
