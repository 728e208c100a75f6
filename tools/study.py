#!/usr/bin/env python
"""Run a study: a list of runs over seeds in, one table out; call it again to go on."""

import argparse
import re
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from fam_det.study.child import make_slots
from fam_det.study.definition import Study, load_study
from fam_det.study.plots import plot_curves, plot_scores
from fam_det.study.results import Results, write_whole
from fam_det.study.runner import Runner
from fam_det.study.summary import format_csv, format_json, format_markdown, summarise

EXAMPLES = """
examples:
  tools/study.py configs/Studies/blood_cells_methods.yaml --set DATA=path/to/bccd
  tools/study.py configs/Studies/blood_cells_methods.yaml --table-only
  tools/study.py configs/Studies/blood_cells_methods.yaml --set DATA=path/to/bccd --only "FAM"
"""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", type=Path, help="a file such as those in configs/Studies")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="what {NAME} stands for"
    )
    parser.add_argument("--only", metavar="REGEX", help="do only runs whose name matches")
    parser.add_argument("--jobs", type=int, help="trainings at once (default: one a GPU or core)")
    parser.add_argument("--results", type=Path, help="default: docs/studies/NAME")
    parser.add_argument("--outputs", type=Path, help="default: output/studies/NAME")
    parser.add_argument("--list", action="store_true", help="say what is to do and stop")
    parser.add_argument("--table-only", action="store_true", help="write the table and stop")
    args = parser.parse_args()
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs: got {args.jobs}, expected 1 or more")
    return args


def parse_settings(pairs: list[str], study: Study) -> dict[str, str]:
    """NAME=VALUE pairs; raises a ValueError for one that is unknown or not there."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in study.placeholders:
            known = sorted(study.placeholders) or "none in this study"
            raise ValueError(f"--set: got {pair!r}, expected NAME=VALUE with NAME of {known}")
        settings[name] = value
    return settings


def make_runner(args: argparse.Namespace, study: Study) -> Runner:
    """The runner for a command line; raises a ValueError for a wrong one."""
    settings = parse_settings(args.set, study)
    missing = sorted(study.placeholders - set(settings))
    if missing and not (args.table_only or args.list):
        raise ValueError(f"--set: {missing[0]} is missing; add: --set {missing[0]}=VALUE")
    names = [name for name in study.runs if re.search(args.only or "", name)]
    if not names:
        raise ValueError(f"--only: no run matches {args.only!r}, there are {list(study.runs)}")
    return Runner(
        study,
        Results(args.results or Path("docs/studies") / study.name),
        args.outputs or Path("output/studies") / study.name,
        settings,
        [sys.executable, str(Path(__file__).with_name(f"{study.tool}.py"))],
        names,
    )


def write_report(study: Study, results: Results) -> str:
    """Write the tables and plots beside the results; gives the table."""
    rows = summarise(study, results)
    table = format_markdown(study, rows, results)
    write_whole(results.folder / "README.md", f"# {study.name}\n\n{table}")
    write_whole(results.folder / "table.csv", format_csv(rows))
    write_whole(results.folder / "table.json", format_json(rows))
    if any(row.scores for row in rows):
        plot_scores(study, rows, results.folder / "scores.png")
        plot_curves(study, rows, results.folder / "curves.png")
    return table


def stop(*_: Any) -> None:
    """SIGTERM ends the study as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """Returns the exit status: 0 when all runs have a result, 1 when some failed, 130 stopped."""
    args = parse_arguments()
    try:
        study = load_study(args.study)
        runner = make_runner(args, study)
        if args.list:
            print(*[job.title for job in runner.to_do()], sep="\n")
            return 0
        signal.signal(signal.SIGTERM, stop)
        if not args.table_only:
            gpus = [str(i) for i in range(torch.cuda.device_count())]
            runner.run(make_slots(args.jobs, gpus))
        print(write_report(study, runner.results))
    except (ValueError, re.error) as error:
        sys.exit(f"{args.study}: {error}" if str(args.study) not in str(error) else str(error))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 1 if runner.failed else 0


if __name__ == "__main__":
    sys.exit(main())
