"""Runs a demo's trainings as a study, and writes its report."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fam_det.analysis.checkpoint import count_parameters, read_weights
from fam_det.analysis.jobs import DEFINITION_FILE
from fam_det.analysis.plan import CHECKPOINT, Plan
from fam_det.analysis.processes import lock_folder, make_slots
from fam_det.analysis.results import Results
from fam_det.analysis.runner import Runner
from fam_det.analysis.study import load_study
from tools.demo.outcome import Metric, Outcome, describe_gain, format_table
from tools.study import training_command

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Demo:
    """The parts that differ between demos."""

    module: str  # for ``python -m``
    about: str  # for --help
    study: Path  # file with three runs: a teacher, a student alone, the same student taught
    heading: str  # of the report
    example: str  # of KEY VALUE
    metric: Metric  # for the verdict
    columns: Mapping[str, str]  # of the table: keys in ``metrics.json`` by title
    draw: Callable[[Path, Sequence[Outcome]], None]  # writes the picture
    picture: str  # its caption
    prepare: Callable[[Path], bool] = lambda folder: False  # builds the data; True if it did


def main(demo: Demo, argv: Sequence[str] | None = None) -> int:
    """Runs a demo and prints its report; returns the exit status."""
    args = parse_arguments(demo, argv)
    output = args.output.resolve()
    os.chdir(ROOT)  # the study's config files are relative to it
    # SIGTERM acts as Ctrl-C, so that the training is stopped too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"Everything goes to {output}", flush=True)
    try:
        plan = make_plan(demo, output, args.opts)
        with lock_folder(output):
            is_new = demo.prepare(output / "data")
            forget(plan, everything=is_new or args.fresh)
        settings, command = {"DATA": str(output / "data")}, training_command(plan.study)
        # one network at a time, on all cores
        Runner(plan, settings, command, line_seconds=20.0).run(make_slots(1, []))
        if plan.failed:
            return 1
        print(write_report(demo, plan))
    except BlockingIOError:
        print("another demo is running there; give --output another folder", file=sys.stderr)
        return 1
    except (FileExistsError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nstopped; the same command resumes it ({output})", file=sys.stderr)
        return 130
    return 0


def parse_arguments(demo: Demo, argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    command = f"python -m {demo.module}"
    parser = argparse.ArgumentParser(
        prog=command,
        description=demo.about,
        epilog=f"examples:\n  {command}\n  {command} --fresh {demo.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    output = ROOT / "output" / demo.module.removeprefix("tools.").replace(".", "_")
    parser.add_argument("--output", type=Path, default=output, help="folder for everything")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have done")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help=f"for all three configs, such as {demo.example}",
    )
    args = parser.parse_args(argv)
    if len(args.opts) % 2:
        parser.error(f"KEY VALUE: got {len(args.opts)} words, expected pairs: {args.opts}")
    return args


def make_plan(demo: Demo, output: Path, opts: Sequence[str]) -> Plan:
    """Returns the study's plan, with KEY VALUE pairs in all of its runs."""
    study = load_study(demo.study)
    values = dict(zip(opts[::2], opts[1::2], strict=True))
    seed = values.pop("SEED", "1")
    if not seed.isdecimal():
        raise ValueError(f"SEED: got {seed!r}, expected a whole number")
    runs = {
        name: replace(run, overrides={**run.overrides, **values}, seeds=[int(seed)])
        for name, run in study.runs.items()
    }
    return Plan(replace(study, runs=runs), Results(output / "results"), output)


def forget(plan: Plan, *, everything: bool) -> None:
    """Deletes folders of earlier calls if asked, and invalidates results without a folder."""
    for job in plan.known_jobs():
        folder, result = plan.folder(job), plan.results.read(job)
        if everything and (folder / DEFINITION_FILE).exists():
            shutil.rmtree(folder)
        if result and not result.failure and not (folder / CHECKPOINT).exists():
            plan.results.write(job, replace(result, failure="its folder is gone"))


def write_report(demo: Demo, plan: Plan) -> str:
    """Writes ``report.md`` and ``report.png``; returns what to print."""
    table, image = plan.outputs / "report.md", plan.outputs / "report.png"
    outcomes = []
    for job in plan.known_jobs():
        result, folder = plan.results.read(job), plan.folder(job)
        assert result is not None
        parameters = count_parameters(read_weights(folder)).student
        outcomes.append(Outcome(job.run.name, folder, parameters, result))
    demo.draw(image, outcomes)
    teacher, alone, taught = (outcome.result.figures[demo.metric.key] for outcome in outcomes)
    verdict = describe_gain(demo.metric, teacher, alone, taught)
    text = f"{format_table(demo.columns, outcomes)}\n\n{verdict}"
    table.write_text(f"# {demo.heading}\n\n{text}\n\n![{demo.picture}]({image.name})\n")
    return f"\n{text}\n\nTable:   {table}\nPicture: {image}"
