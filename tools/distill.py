#!/usr/bin/env python
"""Distil a detector into a small one on your data: derive the config, save it and run it."""

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fam_det.recipes.recipe import Recipe, Request

EXAMPLES = """
example:
  tools/distill.py --teacher COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml --student resnet18 \\
      --train cells/train.json cells/images --val cells/val.json cells/images --output output/cells

docs/your_data.md describes the derivation; KEY VALUE pairs of config keys override it.
"""
RUNTIMES = ("pytorch", "torchscript", "onnx")
# Defaults of arguments that --train-teacher does not take.
STUDENT_DEFAULTS = {
    **dict.fromkeys(("student", "student_weights", "speedup", "latency"), None),
    **dict.fromkeys(("images", "classes", "inherit_heads"), None),
    **dict.fromkeys(("ladder", "features_only", "compare"), False),
}
HELP_FOR = f"to measure that in: {', '.join(RUNTIMES)}"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s --teacher NAME --student NAME|--speedup N|--latency MS|--ladder\n"
        "           --train JSON IMAGES|--images DIR --val JSON IMAGES [...] [KEY VALUE ...]\n"
        "       %(prog)s --train-teacher NAME --train JSON IMAGES --val JSON IMAGES [...]",
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
    )
    pair = ("JSON", "IMAGES")
    add = parser.add_argument
    teacher = parser.add_mutually_exclusive_group(required=True).add_argument
    teacher("--teacher", metavar="NAME", help="a run, a config, or one of the model zoo")
    teacher("--train-teacher", metavar="NAME", help="train one: resnet50, resnet101, ...")
    add("--teacher-weights", metavar="FILE", help="default: the zoo's, or beside the config")
    add("--student", metavar="NAME", help="resnet18, mobilenet_v2, timm://NAME, ...")
    weights = parser.add_mutually_exclusive_group().add_argument
    weights("--student-weights", metavar="FILE", help="default: ImageNet's")
    weights("--from-scratch", action="store_true", help="random weights in place of these")
    speed = parser.add_mutually_exclusive_group().add_argument
    speed("--speedup", type=float, metavar="N", help="the largest student N times as fast")
    speed("--latency", type=float, metavar="MS", help="the largest that takes MS milliseconds")
    add("--for", dest="runtime", choices=RUNTIMES, metavar="NAME", help=HELP_FOR)
    add("--ladder", action="store_true", help="print the speed of all students, and stop")
    add("--train", nargs=2, metavar=pair, help="COCO annotations, image folder")
    add("--val", nargs=2, metavar=pair, help="the same, to evaluate on")
    add("--images", nargs="+", type=Path, metavar="DIR", help="folders for the teacher to label")
    add("--classes", nargs="+", metavar="NAME", help="of the teacher's there (default: all)")
    add("--features-only", action="store_true", help="learn only feature maps there")
    add("--schedule", default="1x", help="1x, 0.1x, ... or a number of iterations")
    add("--batch", type=int, default=8, metavar="N", help="images an iteration (default: 8)")
    optional = argparse.BooleanOptionalAction
    add("--inherit-heads", action=optional, help="the teacher's (default: if classes fit)")
    add("--output", metavar="DIR", help="default: output/distill, or output/teacher")
    add("--device", choices=["cuda", "cpu"], help="default: cuda if there is a GPU")
    add("--num-gpus", type=int, default=1, metavar="N", help="default: 1")
    add("--compare", action="store_true", help="then train it alone, and with heads alone")
    add("--resume", action="store_true", help="resume from the last checkpoint")
    add("--allow-odd-boxes", action="store_true", help="continue with boxes that seem wrong")
    add("--dry-run", action="store_true", help="print config and cost, and stop")
    add("options", nargs="*", metavar="KEY VALUE", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()  # KEY VALUE may come after options
    args.output = args.output or f"output/{'teacher' if args.train_teacher else 'distill'}"
    return args


def check_arguments(args: argparse.Namespace) -> None:
    """Raises a ValueError for impossible numbers, or a folder with another run."""
    for flag, value in (("--batch", args.batch), ("--num-gpus", args.num_gpus)):
        if value < 1:
            raise ValueError(f"{flag}: got {value}, expected 1 or more")
    for flag, goal in (("--speedup", args.speedup), ("--latency", args.latency)):
        if goal is not None and not 0 < goal < float("inf"):
            raise ValueError(f"{flag}: got {goal}, expected a number above 0")
    if args.train_teacher:
        check_teacher_arguments(args)
    is_measured = args.ladder or args.speedup or args.latency
    if not (args.student or is_measured or args.train_teacher):
        raise ValueError(
            "--student: missing; give one, or --speedup N or --latency MS to choose it"
        )
    if args.runtime and not is_measured:
        raise ValueError("--for: says what --speedup, --latency or --ladder measure; add one")
    check_data_arguments(args)
    if args.batch % args.num_gpus:
        raise ValueError(f"--batch: got {args.batch}, expected a multiple of --num-gpus")
    trained = (Path(args.output) / "last_checkpoint").exists()
    if trained and not (args.resume or args.dry_run or args.ladder):
        raise ValueError(
            f"--output: {args.output} holds a run; add --resume to resume it, or give another"
        )


def check_teacher_arguments(args: argparse.Namespace) -> None:
    """Raises a ValueError for a flag without an effect on ``--train-teacher``."""
    for name, default in STUDENT_DEFAULTS.items():
        if getattr(args, name) != default:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag}: is of a student; leave it out with --train-teacher")
    if args.from_scratch and args.teacher_weights:
        raise ValueError("--from-scratch: has no --teacher-weights; leave one of them out")


def check_data_arguments(args: argparse.Namespace) -> None:
    """Raises a ValueError for missing data, or flags that exclude each other."""
    if not (args.train or args.images):
        raise ValueError("--train: missing; give it, or --images of which the teacher labels all")
    if not args.val and (not args.images or args.features_only):
        raise ValueError("--val: missing; give annotations and images to evaluate on")
    flags = ("classes", "features_only")
    if not args.images and (given := [x for x in flags if getattr(args, x)]):
        raise ValueError(f"--{given[0].replace('_', '-')}: is of --images; add one or more folders")
    if args.classes and args.train:
        raise ValueError("--classes: they are those of --train; leave one of them out")
    if args.compare and args.features_only and not args.train:
        raise ValueError("--compare: a student alone needs labels; add --train, or leave it out")


def read_data(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Reads the data sets, and labels the folders; returns data fields of a ``Request``."""
    from fam_det.data.audit import find_shared_images, report
    from fam_det.recipes.data import read_coco

    train, val = (
        read_coco(flag, *pair, allow_odd_boxes=args.allow_odd_boxes) if pair else None
        for flag, pair in (("--train", args.train), ("--val", args.val))
    )
    if train and val:
        report(f"--val: {val.annotations}", find_shared_images(train.files, val.files))
    if not args.images:
        return {"train": train, "val": val}
    from fam_det.recipes.labels import LabelRequest
    from fam_det.recipes.unlabelled import read_folders

    request = LabelRequest(
        teacher=args.teacher,
        folders=args.images,
        output=Path(args.output) / "labels",
        teacher_weights=args.teacher_weights,
        classes=args.classes or (train.class_names if train else val.class_names if val else ()),
        labelled=val or train,  # val first: a teacher's scores on its training images are higher
        device=device,
        options=args.options,
    )
    # --ladder needs no labels: the size of a student does not depend on them.
    return read_folders(request, train, val, features_only=args.features_only or args.ladder)


def read_request(args: argparse.Namespace) -> "Request":
    """Reads the data; raises a ValueError that names a wrong flag."""
    check_arguments(args)
    import torch  # here, as these imports take seconds

    from fam_det.recipes.recipe import Request
    from fam_det.recipes.student import check_student
    from fam_det.recipes.teacher import teacher_overrides

    if args.student:
        check_student(args.student)
    if args.teacher:  # checks that it exists, before minutes of reading data
        teacher_overrides(args.teacher, args.teacher_weights)
    random = "none" if args.from_scratch else None
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Request(
        teacher=args.teacher or args.train_teacher,
        student=args.student or "",
        **read_data(args, device),
        output=args.output,
        device=device,
        num_gpus=args.num_gpus,
        teacher_weights=args.teacher_weights or (random if args.train_teacher else None),
        student_weights=args.student_weights or random,
        schedule=args.schedule,
        batch=args.batch,
        inherit_heads=args.inherit_heads,
        options=args.options + ["DATASETS.ALLOW_ODD_BOXES", "True"] * args.allow_odd_boxes,
    )


def choose_student(request: "Request", args: argparse.Namespace) -> "Request":
    """Chooses the student for --speedup or --latency, and prints its speed.

    With --ladder it measures all students, and prints its choice.
    """
    from fam_det.recipes.sizing import Sizing, Target, size_student

    target = Target(args.speedup, args.latency, args.runtime or "pytorch")
    if not args.ladder:
        request, text = size_student(request, target, Path(args.output), resume=args.resume)
        print(f"{text}\n")
        return request
    sizing = Sizing(request, target)
    sizing.measure_all()
    print(sizing.text())
    if args.speedup or args.latency:
        print(f"\n{sizing.note(sizing.choose())}")
    return request


def write_config(recipe: "Recipe", args: argparse.Namespace) -> Path:
    """Prints the config, and saves it; a dry run does not replace another config.

    Raises:
        ValueError: a changed config that a run cannot be resumed with.
    """
    from fam_det.files.atomic_write import atomic_write_text
    from fam_det.recipes.overrides import changed_keys, check_resumable

    text = recipe.to_yaml()
    path = Path(recipe.cfg.OUTPUT_DIR) / ("teacher.yaml" if args.train_teacher else "distill.yaml")
    print(text, end="")
    changes = changed_keys(path.read_text(), text) if path.is_file() else {}
    if changes and args.resume:
        check_resumable(changes, str(path))
    for key, (old, new) in changes.items():
        print(f"{path}: {key}: was {old}, is {new}", file=sys.stderr)
    if not (changes and args.dry_run):
        atomic_write_text(path, text)
    return path


def run_training(args: argparse.Namespace, config: Path, *options: str) -> None:
    """Trains in another process; exits with its exit code if that is not 0."""
    from fam_det.analysis.processes import run_attached

    tool = Path(sys.argv[0]).with_name("train_net.py")
    command = [str(tool), "--config-file", str(config)]
    command += ["--num-gpus", str(args.num_gpus)] if args.num_gpus > 1 else []
    command += ["--resume"] if args.resume else []
    command += options
    print(f"\npython {shlex.join(command)}", flush=True)
    code = 0 if args.dry_run else run_attached([sys.executable, *command])
    if code:
        sys.exit(code)


def run_trainings(args: argparse.Namespace, request: "Request", recipe: "Recipe") -> None:
    """Trains, with --compare also the controls; prints the cost before, and a table after."""
    from fam_det.data.audit import kept_warnings
    from fam_det.recipes.controls import controls
    from fam_det.recipes.cost import describe_cost

    warnings = kept_warnings()
    config = write_config(recipe, args)
    trainings = controls(config) if args.compare else {}
    if not args.resume:  # the log of a resumed run has the real times
        print(f"\n{describe_cost(request, recipe.cfg, 1 + len(trainings))}")
    run_training(args, config)
    for folder, options in trainings.values():
        run_training(args, config, *options, "OUTPUT_DIR", str(folder))
    if not args.dry_run:
        from fam_det.recipes.outcome import summarize, summarize_teacher

        others = {title: folder for title, (folder, _) in trainings.items()}
        folder = config.parent
        table = summarize_teacher(folder) if args.train_teacher else summarize(folder, others)
        # The decisions again: the log of the training has scrolled them away.
        notes = [line[2:] for line in config.read_text().splitlines() if line.startswith("# ")]
        print("", *notes, *warnings, "", table, sep="\n", end="")


def main() -> None:
    """Writes the config, trains, and prints the results."""
    args = parse_arguments()
    try:
        request = read_request(args)
        if args.ladder or args.speedup or args.latency:
            request = choose_student(request, args)
        if args.ladder:
            return
        from fam_det.recipes.recipe import derive, derive_teacher

        recipe = derive_teacher(request) if args.train_teacher else derive(request)
        run_trainings(args, request, recipe)
    except (ValueError, OSError) as error:
        sys.exit(" ".join(str(error).split()))  # on one line
    except KeyboardInterrupt:  # outside of a training, which handles it itself
        sys.exit(130)


if __name__ == "__main__":
    main()
