"""Compare the project with plain formulas and other methods: time, memory, parameters.

docs/performance.md explains each row and its goal.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

import torch

from tools.benchmark.measuring import Case, describe_machine, exponents, measure, table

# Modules of this package, each imported when it runs: some need more than PyTorch.
SUITES = ("kernels", "head", "step", "data")
EXAMPLES = """
examples:
  python -m tools.benchmark
  python -m tools.benchmark --suite step --only "layer to layer"
"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU (default: 2)")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there, too")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU")
    return args


def cases(suite: str, device: str) -> Iterator[Case]:
    """Yields the cases of a suite, each built when it is needed."""
    yield from import_module(f"tools.benchmark.{suite}").cases(device)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suites and prints a table of each; returns the exit status."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    machine = describe_machine(args.device)
    print(json.dumps(machine), flush=True)
    results = {}
    for name in SUITES if args.suite == "all" else [args.suite]:
        rows = []
        for case in cases(name, args.device):
            if args.only in case.name:
                print(f"{name}: {case.name}", end=" ... ", file=sys.stderr, flush=True)
                rows.append(measure(case, args.device))
                print(f"{rows[-1]['ratio']:.3f}", file=sys.stderr, flush=True)
        print("\n".join(["", name, "", table(rows), *exponents(rows)]), flush=True)
        results[name] = rows
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"machine": machine, "suites": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
