#!/usr/bin/env python
"""See what a run learnt: teacher, student alone and distilled student on the same images.

RUN is an output folder of tools/train_net.py. Writes PNG files and one page, index.html, that
needs no network: detections beside the ground truth, feature maps, filters, gammas.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from fam_det.report.plots import plot_filters, plot_gammas
from fam_det.report.rows import build_rows
from fam_det.report.runs import Run, read_run
from fam_det.visualize.detectors import (
    Detector,
    checkpoint_name,
    detectors_of,
    transformed_maps,
)
from fam_det.visualize.examples import Example, choose_examples
from fam_det.visualize.page import Picture, Section, format_page
from fam_det.visualize.pictures import draw_detections, draw_maps, draw_truth, score_line

EXAMPLES = """
examples:
  tools/visualize.py output/demo/student_fam --alone output/demo/student_baseline
  tools/visualize.py output/r18_fam --image 139 --image 000000000285.jpg --threshold 0.3
"""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="output folder of a training")
    parser.add_argument(
        "--alone", type=Path, metavar="RUN", help="of the same student without a teacher"
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="ID|FILE",
        help="of the first test set, again for more (default: those with the most objects)",
    )
    parser.add_argument(
        "--count", type=int, default=4, help="images if none is named (%(default)s)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least score that is drawn (%(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--output", type=Path, help="folder to fill (default: RUN/visualize)")
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count: got {args.count}, expected 1 or more")
    return args


def main() -> int:
    """Write pictures and page; returns the exit status."""
    args = parse_arguments()
    logging.getLogger("fvcore").setLevel(logging.WARNING)
    output = args.output or args.run / "visualize"
    try:
        run = read_run(args.run)
        alone = read_run(args.alone) if args.alone else None
        cfg, detectors = detectors_of(run, alone, args.device)
        examples = choose_examples(cfg, args.image, args.count)
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sections = [*image_sections(detectors, examples, args.threshold, output)]
    sections += training_sections(run, output)
    facts = [("checkpoint", checkpoint_name(run)), ("data", cfg.DATASETS.TEST[0])]
    facts += [("student alone", checkpoint_name(alone))] if alone else []
    facts += [("iterations", f"{run.iterations:,} of {run.max_iter:,}")]
    page = output / "index.html"
    page.write_text(format_page(f"Run {run.folder.resolve().name}", facts, sections), "utf-8")
    print(f"written to {output}: index.html and {sum(len(s.pictures) for s in sections)} pictures")
    return 0


def image_sections(
    detectors: Sequence[Detector], examples: Sequence[Example], threshold: float, output: Path
) -> list[Section]:
    """Detections and maps of every image."""
    sections = []
    for number, example in enumerate(examples, start=1):
        pictures = [save_image(draw_truth(example), output / f"{number}_truth.png", "ground truth")]
        maps = {}
        for detector in detectors:
            seen = detector.look_at(example.inputs, levels_of(detectors))
            caption = f"{detector.name}: {score_line(seen.instances, threshold)}"
            drawn = draw_detections(example, seen.instances, threshold)
            name = detector.name.replace(" ", "_")
            pictures.append(save_image(drawn, output / f"{number}_{name}.png", caption))
            maps[detector.name] = seen.maps
            if after := transformed_maps(detector, seen.maps):
                maps["its maps after the transform"] = after
        file = output / f"{number}_maps.png"
        draw_maps(maps, file)
        sections.append(Section(f"Image {example.name}", pictures))
        heading = f"Feature maps of {example.name}"
        sections.append(Section(heading, [Picture(file, "by level, one scale a row")], wide=True))
    return sections


def levels_of(detectors: Sequence[Detector]) -> list[str]:
    """Names of the feature maps that every detector has, shallow to deep."""
    shapes = [detector.model.backbone.output_shape() for detector in detectors]
    shared = set.intersection(*({*shape} for shape in shapes))
    return sorted(shared, key=lambda level: shapes[0][level].stride)


def save_image(image: object, file: Path, caption: str) -> Picture:
    """Write an RGB array."""
    Image.fromarray(image).save(file)  # type: ignore[arg-type]
    return Picture(file, caption)


def training_sections(run: Run, output: Path) -> list[Section]:
    """Filters and gammas, where the run has some."""
    row = build_rows([run])[0]
    sections = []
    for heading, plot, name in (
        ("Filters", plot_filters, "filters.png"),
        ("Gammas over the training", plot_gammas, "gammas.png"),
    ):
        if plot(row, output / name):
            sections.append(Section(heading, [Picture(output / name, heading)], wide=True))
    return sections


if __name__ == "__main__":
    sys.exit(main())
