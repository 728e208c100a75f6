#!/usr/bin/env python
"""Show what a run learnt: teacher, student alone and distilled student on the same images.

RUN is an output folder of tools/train_net.py. Writes PNG files and one page, index.html, that
needs no network: detections beside the ground truth, feature maps, filters, gammas.
"""

import argparse
import logging
import sys
from pathlib import Path

from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.analysis.detectors import load_detectors
from fam_det.analysis.images import choose_examples
from fam_det.analysis.page import format_page
from fam_det.analysis.rows import Row, build_rows, title
from fam_det.analysis.runs import SCORES, read_run
from fam_det.analysis.sections import image_sections, training_sections

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
    add("--threshold", type=float, default=0.5, help="least score that is drawn (%(default)s)")
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
        examples = choose_examples(cfg, args.image, args.count)
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    row = build_rows([run])[0]
    sections = image_sections(detectors, examples, args.threshold, output)
    sections += training_sections(row, output)
    facts = facts_of(row, build_rows([alone])[0] if alone else None, cfg.DATASETS.TEST[0])
    page = output / "index.html"
    text = format_page(f"Run {run.folder.resolve().name}", title(row), facts, sections)
    page.write_text(text, "utf-8")
    print(f"written to {output}: {text.count('<img ')} pictures; open {page}")
    return 0


def facts_of(row: Row, alone: Row | None, test_set: str) -> list[tuple[str, str]]:
    """Returns the table at the top of the page."""
    facts = [("data", test_set)]
    for name, own in (("distilled" if alone else "run", row), ("alone", alone)):
        if own is None:
            continue
        run = own.counted[0]
        scores = [
            f"{title} {own.scores[key].format(digits)}"
            for key, (title, digits) in SCORES[run.task].items()
            if key in own.scores
        ]
        file = find_checkpoint(run.folder)
        assert file is not None  # its detector is loaded
        done = f"{run.iterations:,} of {run.max_iter:,} iterations"
        facts.append((name, ", ".join([f"{run.folder.name}/{file.name}", done, *scores])))
    return facts


if __name__ == "__main__":
    sys.exit(main())
