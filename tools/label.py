#!/usr/bin/env python
"""Label a folder of images with a detector: its detections as a data set in COCO's format."""

import argparse
import sys
from pathlib import Path

EXAMPLES = """
example:
  tools/label.py --teacher output/teacher/config.yaml --images photos --output output/labels

Writes labels.json, uncertain objects as crowds, and unreadable.txt. A second call resumes.
"""


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--teacher", required=True, metavar="NAME", help="a run, a config, or one of the model zoo")
    add("--teacher-weights", metavar="FILE", help="default: the zoo's, or beside the config")
    add("--images", nargs="+", required=True, type=Path, metavar="FOLDER", help="with subfolders")
    add("--classes", nargs="+", default=[], metavar="NAME", help="of the teacher's, default: all")
    pair = ("JSON", "IMAGES")
    add("--val", nargs=2, metavar=pair, help="labelled, new to it, to choose scores by class on")
    scores = "objects have a score of HIGH, uncertain ones of LOW (default: 0.25 0.5, or chosen)"
    add("--scores", nargs=2, type=float, metavar=("LOW", "HIGH"), help=scores)
    add("--output", default="output/labels", type=Path, metavar="DIR", help="default: %(default)s")
    add("--device", choices=["cuda", "cpu"], help="default: cuda if there is a GPU")
    add("options", nargs="*", metavar="KEY VALUE", help="such as MODEL.TEACHER.OPTS")
    args = parser.parse_intermixed_args()
    if args.scores and not 0.05 <= args.scores[0] <= args.scores[1] <= 1:
        parser.error(f"--scores: got {args.scores}, expected 0.05 <= LOW <= HIGH <= 1")
    return args


def main() -> None:
    """Writes the files and prints their contents."""
    args = parse_arguments()
    import torch  # here, as these imports take seconds

    from fam_det.recipes.data import read_coco
    from fam_det.recipes.labels import LabelRequest, label_images, write_dataset, write_unreadable

    try:
        request = LabelRequest(
            teacher=args.teacher,
            folders=args.images,
            output=args.output,
            teacher_weights=args.teacher_weights,
            classes=args.classes,
            labelled=read_coco("--val", *args.val) if args.val else None,
            scores=args.scores,
            device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            options=args.options,
        )
        labelled = label_images(request)
        line = write_dataset(labelled, args.output / "labels.json")
        print(f"{line}; image folder: {labelled.labels.root}")
        print(write_unreadable(labelled.labels, args.output / "unreadable.txt"), end="")
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
    except KeyboardInterrupt:  # the same call resumes
        sys.exit(130)


if __name__ == "__main__":
    main()
