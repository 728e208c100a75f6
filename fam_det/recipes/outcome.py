"""The results of a distillation: one table of teacher, student, and control trainings."""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fvcore.nn import parameter_count
from torch import Tensor, nn

from fam_det.analysis.detectors import renumber
from fam_det.analysis.runs import read_run
from fam_det.analysis.tables import format_number, format_table
from fam_det.data import register_coco_datasets
from fam_det.data.annotations import read_annotations
from fam_det.data.audit import class_names
from fam_det.data.images import find_image
from fam_det.export.formats import detect
from fam_det.export.measure import Network, latencies
from fam_det.export.parts import describe_device
from fam_det.export.source import (
    MAX_REASON,
    example_image,
    load_teacher,
    read_source,
    teacher_input,
)
from fam_det.export.student import load_student
from fam_det.files import one_line
from fam_det.files.atomic_write import atomic_write_text
from fam_det.recipes.teacher import read_teacher
from fam_det.training.best import MAIN_METRICS
from fam_det.training.console import quiet
from fam_det.training.detection import Trainer

from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.logger import setup_logger

COLUMNS = {
    **{"bbox/AP": "AP", "bbox/AP50": "AP50", "segm/AP": "mask AP"},
    **{"bbox/agreement": "agreement with teacher", "segm/agreement": "of masks"},
}


class Row(NamedTuple):
    """A detector in the table."""

    name: str
    scores: Mapping[str, float]  # of the last evaluation, by the keys of COLUMNS
    best: float | None  # highest main metric of all evaluations
    seconds: float | None  # of one image
    parameters: int | None
    file: str  # its checkpoint


class Validation(NamedTuple):
    """The data that a run is evaluated on."""

    names: tuple[str, ...]  # of the classes
    image: Path | None  # the first one


def summarize(folder: Path, others: Mapping[str, Path]) -> str:
    """Returns the table of a finished run, and the next commands.

    Args:
        folder: of the run.
        others: folders of control trainings of the same student, by title.
    """
    student, data, weights = _load_run("student", folder)
    teacher, checkpoint_or_note = find_teacher(student.cfg, data)
    networks = [student, *([teacher] if teacher else [])]
    seconds, *teacher_seconds = latencies([partial(detect, x.detector, x.image) for x in networks])
    rows, notes = [Row("teacher", {}, None, None, None, "")], [checkpoint_or_note]
    if teacher:
        scores, notes = teacher_scores(teacher.cfg, teacher.detector, data, folder)
        parameters = parameter_count(teacher.detector)[""]
        row = Row("teacher", scores, None, teacher_seconds[0], parameters, checkpoint_or_note)
        rows = [row]
    files = {"student": (folder, weights)}
    files |= {title: (other, read_source(other, None, [])[1]) for title, other in others.items()}
    parameters = parameter_count(student.detector)[""]
    rows += [student_row(title, *run, seconds, parameters) for title, run in files.items()]
    notes = [describe_measurement(networks), *notes]
    return "\n\n".join([format_rows(rows), *notes, next_commands(folder, data, rows[1])]) + "\n"


def summarize_teacher(folder: Path) -> str:
    """Returns the table of a teacher that was trained alone, and the command to distil it."""
    network, _, weights = _load_run("teacher", folder)
    (seconds,) = latencies([partial(detect, network.detector, network.image)])
    row = student_row("teacher", folder, weights, seconds, parameter_count(network.detector)[""])
    best = ["--teacher-weights", f"{folder}/model_best.pth"] * has_better(row)
    teacher = shlex.join([f"{folder}/config.yaml", *best])
    node = network.cfg.DATASETS
    files = {name: shlex.join(paths) for name, *paths in node.COCO}
    train, val = (files.get(names[0], "JSON IMAGES") for names in (node.TRAIN, node.TEST))
    command = (
        f"Next:\n  python tools/distill.py --teacher {teacher} \\\n"
        f"    --speedup 5 --train {train} --val {val}"
    )
    return "\n\n".join([format_rows([row]), describe_measurement([network]), command]) + "\n"


def _load_run(name: str, folder: Path) -> tuple[Network, Validation, str]:
    """Returns the detector of a finished run, its data and its checkpoint."""
    cfg, weights = read_source(folder, None, [])
    data = read_validation(cfg)
    _, detector = load_student(cfg, weights)
    return Network(name, detector, cfg, example_image(cfg, data.image, None)), data, weights


def read_validation(cfg: CfgNode) -> Validation:
    """Reads the classes and the first image of ``DATASETS.TEST``, if it is in DATASETS.COCO."""
    for name, annotations, images in cfg.DATASETS.COCO:
        if name in cfg.DATASETS.TEST[:1]:
            content = read_annotations(name, annotations)
            first = find_image(content["images"][0]["file_name"], Path(images))
            return Validation(class_names(content["categories"]), first)
    return Validation((), None)


def student_row(name: str, folder: Path, file: str, seconds: float, parameters: int) -> Row:
    """Returns the row of a run, with its scores and the given measurements."""
    run = read_run(folder)
    scores = {key: points[-1][1] for key in COLUMNS if (points := run.series(key))}
    # The metric that chose model_best.pth.
    series = next((points for key in MAIN_METRICS if (points := run.series(key))), [])
    best = max((value for _, value in series), default=None)
    return Row(name, scores, best, seconds, parameters, file)


def find_teacher(cfg: CfgNode, data: Validation) -> tuple[Network | None, str]:
    """Returns the teacher with its own ``INPUT``, and its checkpoint; or None and the reason."""
    teacher, note = load_teacher(cfg)
    if teacher is None or note or not teacher.weights:
        return None, note or "the teacher has random weights"
    teacher_cfg = teacher_input(cfg, teacher)
    image = example_image(teacher_cfg, data.image, None)
    return Network("teacher", teacher.detector, teacher_cfg, image), teacher.weights


def teacher_scores(
    cfg: CfgNode, detector: Any, data: Validation, folder: Path
) -> tuple[dict[str, float], list[str]]:
    """Evaluates a teacher, or reads the scores of an earlier call; returns scores and notes.

    Args:
        cfg: of the run, with the teacher's ``INPUT``.
        detector: of the teacher, on the CPU.
        data: to evaluate on.
        folder: of the run; the scores are saved in ``teacher/scores.json`` below it.
    """
    file = folder / "teacher" / "scores.json"
    key = [str(x) for x in (cfg.MODEL.TEACHER, cfg.DATASETS.COCO, cfg.DATASETS.TEST, cfg.INPUT)]
    if file.is_file() and (saved := json.loads(file.read_text()))["of"] == key:
        return saved["scores"], []
    try:
        teacher = RemappedTeacher(detector, student_classes(cfg, data), cfg)
        scores = evaluate(cfg, teacher, file.parent)
    except Exception as error:  # a teacher's own code may raise anything
        return {}, [f"the teacher has no AP: {one_line(error, MAX_REASON)}"]
    atomic_write_text(file, json.dumps({"of": key, "scores": scores}, indent=2) + "\n")
    return scores, []


def student_classes(cfg: CfgNode, data: Validation) -> list[int]:
    """Returns the teacher's class for each of the data's; raises a ValueError if one is missing."""
    if not data.names:
        raise ValueError(f"the classes of {cfg.DATASETS.TEST[0]} are not known")
    classes = list(cfg.MODEL.TEACHER.CLASSES)
    if not classes:
        teacher = read_teacher(cfg)
        if teacher.class_names is None and teacher.num_classes != len(data.names):
            raise ValueError(f"it finds {teacher.num_classes} classes, not {len(data.names)}")
        known = teacher.class_names or data.names
        classes = [known.index(name) if name in known else -1 for name in data.names]
    missing = [name for name, index in zip(data.names, classes, strict=True) if index < 0]
    if missing:
        raise ValueError(f"it does not find {missing[0]!r}")
    return classes


class RemappedTeacher(nn.Module):
    """A teacher with the student's classes and output fields, to evaluate it on the same data."""

    classes: Tensor  # (C,), the teacher's

    def __init__(self, detector: nn.Module, classes: Sequence[int], cfg: CfgNode) -> None:
        super().__init__()
        self.detector = detector
        self.register_buffer("classes", torch.tensor(classes))
        is_on = {"pred_masks": cfg.MODEL.MASK_ON, "pred_keypoints": cfg.MODEL.KEYPOINT_ON}
        self.dropped_fields = [name for name, on in is_on.items() if not on]

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns ``instances``."""
        outputs = [output["instances"] for output in self.detector(batch)]
        for instances in outputs:
            for name in self.dropped_fields:
                if instances.has(name):
                    instances.remove(name)
        return [{"instances": renumber(x, self.classes)} for x in outputs]


def evaluate(cfg: CfgNode, detector: nn.Module, folder: Path) -> dict[str, float]:
    """Evaluates a detector as its training does, on the first data set."""
    register_coco_datasets(cfg, tested=cfg.DATASETS.TEST)
    cfg = cfg.clone()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(folder), cfg.DATASETS.TEST[:1]
    folder.mkdir(parents=True, exist_ok=True)
    quiet(setup_logger(name="detectron2"))
    results = flatten_results_dict(Trainer.test(cfg, detector.to(cfg.MODEL.DEVICE)))
    detector.cpu()
    return {key: float(results[key]) for key in COLUMNS if key in results}


def format_rows(rows: Sequence[Row]) -> str:
    """Returns the table."""
    cells = [
        {
            "": row.name,
            **{title: format_number(row.scores.get(key), 1, 1) for key, title in COLUMNS.items()},
            "best": format_number(row.best, 1, 1),
            "latency, ms": format_number(row.seconds, 1e3, 1),
            "parameters, M": format_number(row.parameters, 1e-6, 2),
            "checkpoint": row.file,
        }
        for row in rows
    ]
    return format_table(cells, "text", left=("", "checkpoint"))


def describe_measurement(networks: Sequence[Network]) -> str:
    """Returns a line on how the latency was measured."""
    sizes = ", ".join("{} x {} for the {}".format(*x.size, x.name) for x in networks)
    return (
        f"Latency of one validation image, {sizes}, on {describe_device('cpu')}, PyTorch "
        f"{torch.__version__}."
    )


def next_commands(folder: Path, data: Validation, student: Row) -> str:
    """Returns the next commands, and the best checkpoint if it is not the last one."""
    image = data.image or Path("IMAGES/IMAGE")
    words = [
        ["tools/deploy.py", folder, "--format", "onnx", "--image", image],
        ["tools/predict.py", folder, image.parent],
    ]
    lines = [f"Logs, metrics and checkpoints are in {folder}. Next:"]
    lines += [f"  python {shlex.join(map(str, x))}" for x in words]
    if has_better(student):
        lines.append(f"with --weights {folder / 'model_best.pth'} for the best checkpoint.")
    return "\n".join(lines)


def has_better(row: Row) -> bool:
    """Returns whether an earlier evaluation was better than the last one."""
    last = next((row.scores[key] for key in MAIN_METRICS if key in row.scores), None)
    return row.best is not None and last is not None and row.best > last
