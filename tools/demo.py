#!/usr/bin/env python
"""Distil a small detector on two CPU cores and compare it with the same one trained alone.

Builds scenes of handwritten digits, trains a teacher, a student alone and the same student with FAM
(configs/Demo), and writes a table and a picture. Stopped, it goes on from there when run again.
"""

import argparse
import contextlib
import signal
import sys
from pathlib import Path

from fam_det.demo.pipeline import Demo, StageFailed, claimed, clear, progress_costs, run_demo
from fam_det.demo.progress import Progress
from fam_det.demo.report import write_report

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output" / "demo", help="folder for everything"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have done")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="for all three configs, such as MODEL.DISTILLER.NAME LayerToLayerDistiller",
    )
    args = parser.parse_args()
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE: got {len(args.opts)} words, expected pairs: {args.opts}")
    return args


def main() -> int:
    """Run the demo; returns the exit status."""
    args = parse_arguments()
    # Whatever asks us to end does it as Ctrl-C does, so that the training is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    demo = Demo(ROOT, args.output.resolve(), args.opts)
    print(f"Everything goes to {demo.output}", flush=True)
    try:
        with claimed(demo.output):
            if args.fresh:
                clear(demo)
            with contextlib.closing(Progress(progress_costs(demo))) as progress:
                run_demo(demo, progress)
            print(write_report(demo))
    except BlockingIOError:
        print("another demo is running there; give --output another folder", file=sys.stderr)
        return 1
    except FileExistsError as error:
        print(f"{error}; give --output another folder", file=sys.stderr)
        return 1
    except StageFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on from here ({demo.output})", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
