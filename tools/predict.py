#!/usr/bin/env python
"""Detect objects in images and videos: pictures with boxes, and one file in COCO's format.

DETECTOR is an output folder of tools/train_net.py or tools/deploy.py, an ONNX file in the latter,
or a config file in YAML. IMAGE is a file, a folder of images, or a video.
"""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from fam_det.analysis.images import draw_detections
from fam_det.export.media import (
    UnreadableError,
    count_frames,
    is_video,
    list_media,
    picture_writer,
    progress,
    read_pictures,
)
from fam_det.export.predictions import open_predictions
from fam_det.export.predictor import Predictor, load_predictor

from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances

EXAMPLES = """
examples:
  tools/predict.py output/r18_fam street.jpg
  tools/predict.py output/r18_fam/deploy/model.onnx photos --threshold 0.7 --output output/photos
"""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("detector", type=Path, metavar="DETECTOR")
    add("images", type=Path, nargs="+", metavar="IMAGE")
    add("--weights", metavar="FILE", help="default: the folder's last checkpoint")
    drawn = "least score that is drawn and written (%(default)s); 0 for all, as evaluations count"
    add("--threshold", type=float, default=0.5, metavar="SCORE", help=drawn)
    output = "for predictions.json, pictures/ (%(default)s)"
    add("--output", type=Path, default=Path("output/predict"), metavar="DIR", help=output)
    add("--no-pictures", action="store_true", help="write predictions.json alone, which is faster")
    device = "default: cuda if PyTorch sees a GPU; cpu for ONNX"
    add("--device", choices=("cpu", "cuda"), help=device)
    args = parser.parse_args()
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold: got {args.threshold}, expected 0 to 1")
    return args


def main() -> int:
    """Writes the files; returns the exit status, 1 if a file could not be read."""
    args = parse_arguments()
    logging.disable(logging.WARNING)
    try:
        root, names = list_media(args.images)
        pictures = None if args.no_pictures else args.output / "pictures"
        if pictures and pictures.resolve() == root.resolve():
            raise ValueError(f"--output: the images are in {pictures}; give another folder")
        predictor = load_predictor(args.detector, args.weights, args.device)
        unreadable = predict(args, predictor, root, names, pictures)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    if not predictor.has_names:
        print("the names of the classes are not known: numbered from 0")
    for name, reason in unreadable.items():
        print(f"not read: {name}: {reason}")
    return 1 if unreadable else 0


def predict(
    args: argparse.Namespace,
    predictor: Predictor,
    root: Path,
    names: list[str],
    pictures: Path | None,
) -> dict[str, str]:
    """Writes the files; returns the reasons by name for unreadable files."""
    unreadable = {}
    description = f"{args.detector}: detections with a score of {args.threshold:g} or more"
    info = {"description": description, "image_folder": str(root)}
    file = args.output / "predictions.json"
    total = sum(count_frames(root / name) if is_video(name) else 1 for name in names)
    with (
        open_predictions(file, info, predictor.categories) as predictions,
        progress(None, "detecting", total) as bar,
    ):
        for name in names:
            target = pictures / name if pictures else None
            try:
                for image, instances in detect_in(predictor, root / name, target, args.threshold):
                    predictions.add({"file_name": name, **image}, instances)
                    bar.update()
            except UnreadableError as error:
                unreadable[name] = str(error)
                bar.write(f"not read: {name}: {error}", file=sys.stderr)
    print(
        f"{file}: {predictions.num_objects:,} objects with a score of {args.threshold:g} or more "
        f"in {predictions.num_images:,} images" + (f"; drawn in {pictures}" if pictures else "")
    )
    return unreadable


def detect_in(
    predictor: Predictor, source: Path, target: Path | None, threshold: float
) -> Iterator[tuple[dict[str, int], Instances]]:
    """Yields the size of an image, or size and number of each frame, with the detections.

    Draws them into ``target``.
    """
    order = predictor.input_format
    class_names = [category["name"] for category in predictor.categories]
    with picture_writer(source, target) if target else nullcontext() as write:
        for number, image in enumerate(read_pictures(source, order)):
            instances = predictor(image)
            instances = instances[instances.scores >= threshold]
            if write:
                write(draw_detections(convert_image_to_rgb(image, order), class_names, instances))
            height, width = image.shape[:2]
            frame = {"frame_id": number} if is_video(source.name) else {}
            yield {"height": height, "width": width, **frame}, instances


if __name__ == "__main__":
    sys.exit(main())
