#!/usr/bin/env python
"""Show what a run learnt: teacher, student alone and distilled student on the same images.

RUN is an output folder of tools/train_net.py. Writes one page with embedded images, index.html:
detections beside the ground truth, feature maps, filters, gammas.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.analysis.detectors import ALONE, TEACHER, Detector, load_detectors
from fam_det.analysis.images import choose_examples
from fam_det.analysis.page import format_page
from fam_det.analysis.rows import Row, build_rows, title
from fam_det.analysis.runs import SCORES, read_run
from fam_det.analysis.sections import image_sections, training_sections
from fam_det.recipes.outcome import find_teacher, read_validation, student_classes, teacher_scores

from detectron2.config import CfgNode

EXAMPLES = """
examples:
  tools/visualize.py output/demo/student_with_FAM_seed1 --alone output/demo/student_alone_seed1
  tools/visualize.py output/r18_fam --image 139 --image 000000000285.jpg --threshold 0.3
"""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="output folder of a training")
    add("--alone", type=Path, metavar="RUN", help="of the same student without a teacher")
    images = "of the first test set, again for more (default: those with the most objects)"
    add("--image", action="append", default=[], metavar="ID|FILE", help=images)
    add("--count", type=int, default=4, help="images if none is named (%(default)s)")
    threshold = "least score that is drawn (default: each detector's best boxes, one an object)"
    add("--threshold", type=float, metavar="SCORE", help=threshold)
    add("--device", default="cpu", help="cpu or cuda (%(default)s)")
    add("--output", type=Path, help="folder to fill (default: RUN/visualize)")
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count: got {args.count}, expected 1 or more")
    return args


def main() -> int:
    """Writes pictures and page; returns the exit status."""
    args = parse_arguments()
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    output = args.output or args.run / "visualize"
    try:
        run = read_run(args.run)
        alone = read_run(args.alone) if args.alone else None
        cfg, detectors = load_detectors(run, alone, args.device)
        (cfg := cfg.clone()).defrost()  # find_teacher sets its device
        detectors = [with_classes(x, cfg) if x.name == TEACHER else x for x in detectors]
        examples = choose_examples(cfg, args.image, args.count)
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    row = build_rows([run])[0]
    sections = image_sections(detectors, examples, args.threshold) + training_sections(row)
    facts = [("data", cfg.DATASETS.TEST[0]), *teacher_facts(cfg, run.folder)]
    facts += [run_facts(ALONE, build_rows([alone])[0])] if alone else []
    facts += [run_facts(detectors[-1].name, row)]
    page = output / "index.html"
    text = format_page(f"Run {run.folder.resolve().name}", title(row), facts, sections)
    page.write_text(text, "utf-8")
    print(f"written to {output}: {text.count('<img ')} pictures; open {page}")
    return 0


def with_classes(teacher: Detector, cfg: CfgNode) -> Detector:
    """Returns the teacher with the data's classes; without classes if it lacks one of them."""
    data = read_validation(cfg)
    if not data.names:
        return teacher
    try:
        return replace(teacher, classes=student_classes(cfg, data))
    except ValueError:  # teacher_scores reports it
        return replace(teacher, classes=())


def teacher_facts(cfg: CfgNode, folder: Path) -> list[tuple[str, str]]:
    """Returns the teacher's line, with its scores, which are evaluated once and saved."""
    if cfg.MODEL.META_ARCHITECTURE != "DistilledDetector":
        return []
    data = read_validation(cfg)
    teacher, file = find_teacher(cfg, data)
    if teacher is None:
        return [(TEACHER, file)]
    try:
        scores, notes = teacher_scores(teacher.cfg, teacher.detector, data, folder)
    except KeyboardInterrupt:
        scores, notes = {}, ["not evaluated"]
    return [(TEACHER, ", ".join([file, *format_scores(scores), *notes]))]


def run_facts(name: str, row: Row) -> tuple[str, str]:
    """Returns the line of a run: its checkpoint, iterations and scores."""
    run = row.counted[0]
    file = find_checkpoint(run.folder)
    assert file is not None  # its detector is loaded
    done = f"{run.iterations:,} of {run.max_iter:,} iterations"
    scores = format_scores({key: score.mean for key, score in row.scores.items()})
    return name, ", ".join([f"{run.folder.name}/{file.name}", done, *scores])


def format_scores(scores: Mapping[str, float]) -> list[str]:
    """Returns texts such as ``box AP 54.2``."""
    titles = SCORES["detection"].items()
    return [f"{title} {scores[key]:.{digits}f}" for key, (title, digits) in titles if key in scores]


if __name__ == "__main__":
    sys.exit(main())
