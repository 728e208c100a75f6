#!/usr/bin/env python
"""Export the student: a checkpoint for plain Detectron2, TorchScript, ONNX, and their cost.

RUN is an output folder of tools/train_net.py or tools/train_classifier.py, CONFIG a config file in
YAML, distilled or not. Writes model.pth, config.yaml, deploy.md, deploy.json, and a file for each
format: all of them for a detector, torchscript and onnx for a classifier.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import classification.deploy as classifiers
from classification.config import get_cfg as get_classifier_cfg
from fam_det.analysis.runs import read_config
from fam_det.data.coco import find_categories
from fam_det.export.evaluate import register_validation
from fam_det.export.formats import FORMATS, check_packages
from fam_det.export.measure import SECONDS, Network, class_count, measure
from fam_det.export.parts import part_seconds
from fam_det.export.report import Report
from fam_det.export.snippets import usage
from fam_det.export.source import (
    TrainingImages,
    example_image,
    load_teacher,
    read_source,
    teacher_input,
)
from fam_det.export.student import load_student, needed_packages, save_student
from fam_det.files.config_file import merge_config

from detectron2.config import CfgNode

DETECTRON2 = "detectron2"
NO_TEACHER_AP = "the teacher has no AP: its classes, or their order, differ"
CALIBRATION = 64  # training images that int8 is calibrated on
EXAMPLES = """
examples:
  tools/deploy.py output/r18_fam --format torchscript onnx --image street.jpg
  tools/deploy.py configs/COCO-Detection/faster_rcnn_R_18_FPN_baseline.yaml --weights r18.pth
"""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s RUN|CONFIG [--weights FILE] [--output DIR] [--format NAME ...]\n"
        "                 [--evaluate] [--image FILE] [--size H W] [KEY VALUE ...]",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="RUN|CONFIG")
    add("opts", nargs="*", metavar="KEY VALUE", help="of the student's config")
    add("--weights", metavar="FILE", help="default: the run's last checkpoint")
    add("--output", type=Path, metavar="DIR", help="default: RUN/deploy, or output/deploy")
    formats = f"{', '.join([DETECTRON2, *FORMATS])}; the first is always written"
    add("--format", nargs="+", default=[], metavar="NAME", help=formats)
    evaluate = "the AP of every row on DATASETS.TEST, or the accuracy on the test images"
    add("--evaluate", action="store_true", help=evaluate)
    add("--image", type=Path, metavar="FILE", help="to compare and time on (default: noise)")
    pair = ("H", "W")
    add("--size", nargs=2, type=int, metavar=pair, help="default: as INPUT.MIN_SIZE_TEST")
    args = parser.parse_intermixed_args()
    keys = [i for i, word in enumerate(args.format) if word[:1].isupper()]
    if keys:  # argparse takes KEY VALUE pairs after --format for names of formats
        args.opts, args.format = args.format[keys[0] :] + args.opts, args.format[: keys[0]]
    unknown = [name for name in args.format if name not in (DETECTRON2, *FORMATS)]
    if unknown:
        parser.error(f"--format: got {unknown[0]!r}, expected some of {[DETECTRON2, *FORMATS]}")
    if args.size and min(args.size) < 1:
        parser.error(f"--size: got {args.size}, expected two numbers of 1 or more")
    args.format = [name for name in FORMATS if name in args.format]
    return args


def main() -> int:
    """Writes the files and prints the table; returns the exit status."""
    args = parse_arguments()
    logging.disable(logging.WARNING)  # only the table is printed
    default = args.source / "deploy" if args.source.is_dir() else Path("output/deploy")
    try:
        check_packages(args.format)
        is_classifier = reads_as_classifier(args.source)
        report = (deploy_classifier if is_classifier else deploy)(args, args.output or default)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    print(report.text("text"), end="")
    return 1 if any(row.error for row in report.rows if row.network == "student") else 0


def reads_as_classifier(source: Path) -> bool:
    """Returns whether a folder has a classifier's config, or a file can be read as one."""
    if source.is_dir():
        return "NAME" in read_config(source / "config.yaml")["DATASETS"]
    try:
        merge_config(get_classifier_cfg(), source)
    except ValueError:
        return False
    return True


def deploy_classifier(args: argparse.Namespace, output: Path) -> Report:
    """Writes the files of a classifier and measures; otherwise as ``deploy``."""
    if args.size:
        raise ValueError("--size: a classifier's images are of INPUT.SIZE; add INPUT.SIZE 64")
    cfg = classifiers.read_source(args.source, args.weights, args.opts)
    return classifiers.deploy(
        cfg, output, args.format, image=args.image, is_evaluated=args.evaluate
    )


def deploy(args: argparse.Namespace, output: Path) -> Report:
    """Writes the files and measures.

    Raises:
        ValueError: an invalid source, checkpoint or image.
    """
    source, weights = read_source(args.source, args.weights, args.opts)
    dataset = register_validation(source) if args.evaluate else ""
    cfg, student = load_student(source, weights)
    output.mkdir(parents=True, exist_ok=True)
    file = save_student(cfg, student, output)
    networks, notes = prepare(args, source, student)
    evaluated = ("student",) if NO_TEACHER_AP in notes else ("teacher", "student")
    rows = measure(networks, args.format, file, evaluated if dataset else ())
    sizes, needs = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST), needed_packages(cfg, student)
    files = [row.file for row in rows]
    report = Report(
        checkpoint=weights,
        categories=find_categories(source),
        image_size=networks[-1].size,
        input_format=cfg.INPUT.FORMAT,
        sizes=sizes,
        needs=needs,
        rows=rows,
        parts={x.name: part_seconds(x.detector, x.image, SECONDS) for x in networks},
        scores=f"AP of boxes on {dataset}" if dataset else "",
        notes=notes,
        code=usage(files, sizes, cfg.INPUT.FORMAT, needs_package=bool(needs)),
    )
    report.write(output)
    return report


def prepare(
    args: argparse.Namespace, source: CfgNode, student: Any
) -> tuple[list[Network], list[str]]:
    """Returns the teacher, if it can be loaded, and the student, with notes on the teacher."""

    def network(name: str, detector: Any, cfg: CfgNode) -> Network:
        image = example_image(cfg, args.image, tuple(args.size) if args.size else None)
        images = TrainingImages(cfg, CALIBRATION) if "onnx-int8" in args.format else ()
        return Network(name, detector, cfg, image, images)

    networks = [network("student", student, source)]
    teacher, note = load_teacher(source)
    notes = [note] if note else []
    if teacher is None:
        return networks, notes
    networks.insert(0, network("teacher", teacher.detector, teacher_input(source, teacher)))
    if networks[0].size != networks[1].size:
        height, width = networks[0].size
        notes.append(f"the teacher's image has {height} x {width} pixels, as in its config")
    in_order = all(i == k for i, k in enumerate(source.MODEL.TEACHER.CLASSES))
    if class_count(teacher.detector) != class_count(student) or not in_order:
        notes += [NO_TEACHER_AP] * args.evaluate
    return networks, notes


if __name__ == "__main__":
    sys.exit(main())
