"""The command line of a demo."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fam_det.analysis.processes import claimed
from tools.demo.pipeline import Demo, StageFailed, clear, progress_costs, run_demo
from tools.demo.progress import Progress

AnyDemo = TypeVar("AnyDemo", bound=Demo)


def parse_arguments(description: str, output: Path, example: str) -> argparse.Namespace:
    """The command line.

    Args:
        description: what the demo does.
        output: default of ``--output``.
        example: of KEY VALUE.
    """
    tool = f"tools/{Path(sys.argv[0]).name}"
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n  {tool}\n  {tool} --fresh {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=output, help="folder for everything")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have done")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help=f"for all three configs, such as {example}",
    )
    args = parser.parse_args()
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE: got {len(args.opts)} words, expected pairs: {args.opts}")
    return args


def run(demo: AnyDemo, write_report: Callable[[AnyDemo], str], *, fresh: bool) -> int:
    """Run a demo and print its report; what a user should know of goes to standard error.

    Returns:
        The exit status.
    """
    try:
        costs = progress_costs(demo)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    # Whatever asks us to end does it as Ctrl-C does, so that the training is ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"Everything goes to {demo.output}", flush=True)
    try:
        with claimed(demo.output):
            if fresh:
                clear(demo)
            with contextlib.closing(Progress(costs)) as progress:
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
