#!/usr/bin/env python
"""Run a study, a list of runs over seeds, and write its table; call it again to resume."""

import argparse
import os
import re
import signal
import sys
from pathlib import Path

from fam_det.analysis.experiment import NO_EFFECT
from fam_det.analysis.jobs import device
from fam_det.analysis.plan import Plan
from fam_det.analysis.plots import plot_curves, plot_scores, plot_speed
from fam_det.analysis.processes import make_slots
from fam_det.analysis.results import Results
from fam_det.analysis.runner import Runner
from fam_det.analysis.study import Study, load_study
from fam_det.analysis.summary import format_csv, format_json, format_markdown, summarise
from fam_det.files.atomic_write import atomic_write_text

EXAMPLES = """
examples:
  tools/study.py configs/Studies/blood_cells_methods.yaml --set DATA=path/to/bccd
  tools/study.py configs/Studies/blood_cells_methods.yaml --table-only \\
      --results docs/studies/blood_cells_methods
  tools/study.py configs/Studies/blood_cells_methods.yaml --set DATA=path/to/bccd --only "FAM"
  tools/study.py configs/Studies/blood_cells_methods.yaml --set DATA=path/to/bccd MODEL.DEVICE cuda
"""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("study", type=Path, help="a file such as those in configs/Studies")
    add("--set", action="append", default=[], metavar="NAME=PATH", help="value of {NAME}")
    add("--only", metavar="REGEX", help="do only runs whose name matches")
    add("--jobs", type=int, help="trainings at once (default: one a GPU, or one a core, up to 4)")
    add("--outputs", type=Path, help="of the trainings (default: output/studies/NAME)")
    add("--results", type=Path, help="of the tables (default: as --outputs)")
    add("--list", action="store_true", help="print the remaining runs and stop")
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys that change no result")
    add("--table-only", action="store_true", help="write the table and stop")
    args = parser.parse_intermixed_args()  # KEY VALUE may come after options
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs: got {args.jobs}, expected 1 or more")
    return args


def parse_settings(pairs: list[str], study: Study) -> dict[str, str]:
    """Parses NAME=PATH pairs; raises a ValueError for an unknown name or a missing path."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in study.placeholders:
            known = sorted(study.placeholders) or "none in this study"
            raise ValueError(f"--set: got {pair!r}, expected NAME=PATH with NAME of {known}")
        if not Path(value).exists():
            raise ValueError(f"--set: got {pair!r}, but {value} is not there")
        settings[name] = value
    return settings


def parse_options(opts: list[str]) -> dict[str, str]:
    """Parses KEY VALUE pairs; raises a ValueError for a key that would change the results."""
    if len(opts) % 2:
        raise ValueError(f"got {opts[-1]!r} at the end, expected pairs of KEY VALUE")
    options = dict(zip(opts[::2], opts[1::2], strict=True))
    for key in options:
        if not NO_EFFECT.fullmatch(key) or key in ("SEED", "OUTPUT_DIR"):
            raise ValueError(
                f"{key}: expected a key that changes no result, such as MODEL.DEVICE or "
                "DATALOADER.NUM_WORKERS; others belong in the study's file"
            )
    return options


def make_plan(args: argparse.Namespace, study: Study) -> Plan:
    """Makes the plan of a command line; raises a ValueError if no run matches."""
    names = [name for name in study.runs if re.search(args.only or "", name)]
    if not names:
        raise ValueError(f"--only: no run matches {args.only!r}, there are {list(study.runs)}")
    outputs = args.outputs or Path("output/studies") / study.name
    return Plan(study, Results(args.results or outputs), outputs, names)


def list_jobs(args: argparse.Namespace, plan: Plan) -> None:
    """Prints the remaining jobs, and missing settings; raises a ValueError for a wrong command."""
    parse_options(args.opts)
    settings = parse_settings(args.set, plan.study)
    print(*[job.title for job in plan.to_do()], sep="\n")
    for run in plan.undecided():
        seeds = ", ".join(map(str, run.seeds))
        print(f"{run.name}, seeds {seeds}: when its value is chosen")
    for name in sorted(plan.study.placeholders - set(settings)):
        print(f"to run it, add: --set {name}=PATH", file=sys.stderr)


def run_study(args: argparse.Namespace, plan: Plan) -> None:
    """Runs the remaining jobs; raises a ValueError for a wrong command line."""
    study, options = plan.study, parse_options(args.opts)
    settings = parse_settings(args.set, study)
    if missing := sorted(study.placeholders - set(settings)):
        raise ValueError(f"--set: {missing[0]} is missing; add: --set {missing[0]}=PATH")
    on_gpu = any(device(run, options).startswith("cuda") for run in plan.runs)
    runner = Runner(
        plan,
        settings,
        training_command(study),
        options=[text for pair in options.items() for text in pair],
        on_result=lambda: write_tables(study, plan.results),
    )
    runner.run(make_slots(args.jobs, visible_gpus() if on_gpu else []))


def training_command(study: Study) -> list[str]:
    """Returns the command that starts a training."""
    return [sys.executable, str(Path(__file__).with_name(f"{study.tool}.py"))]


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs for ``CUDA_VISIBLE_DEVICES``."""
    import torch  # here, as it takes seconds

    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(i) for i in range(count)]


def write_tables(study: Study, results: Results, *, plots: bool = False) -> str:
    """Writes the tables, and plots if asked, to the results; returns the table in Markdown."""
    rows, folder = summarise(study, results), results.folder
    table = format_markdown(study, rows, results)
    atomic_write_text(folder / "README.md", f"# {study.name}\n\n{table}")
    atomic_write_text(folder / "table.csv", format_csv(study, rows))
    atomic_write_text(folder / "table.json", format_json(rows))
    if plots and any(row.scores for row in rows):
        plot_scores(study, rows, folder / "scores.png")
        plot_curves(study, rows, folder / "curves.png")
        if study.milliseconds:
            plot_speed(study, rows, folder / "speed.png")
    return table


def main() -> int:
    """Returns the exit status: 0 if all runs have a result, 1 if some failed, 130 if stopped."""
    args = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, signal.default_int_handler)
    try:
        study = load_study(args.study)
        plan = make_plan(args, study)
        if args.list:
            list_jobs(args, plan)
            return 0
        if not args.table_only:
            run_study(args, plan)
        print(write_tables(study, plan.results, plots=True), end="")
    except (ValueError, re.error) as error:
        sys.exit(str(error) if str(args.study) in str(error) else f"{args.study}: {error}")
    except BlockingIOError:
        sys.exit(f"{plan.outputs}: another call of this study is running there")
    except KeyboardInterrupt:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 130
    return 1 if plan.failed else 0


if __name__ == "__main__":
    sys.exit(main())
