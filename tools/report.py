#!/usr/bin/env python
"""Tables and plots of runs: scores over seeds, gammas, learning curves, filters, maps."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fam_det.report.plots import plot_filters, plot_gammas, plot_learning_curves
from fam_det.report.runs import Run, read_run
from fam_det.report.table import (
    FORMATS,
    format_table,
    gamma_table,
    group_by_experiment,
    score_table,
)

EXAMPLES = """
Runs that differ in their seed alone are one row, with mean and standard deviation.

examples:
  tools/report.py output/fam_kd_s1 output/fam_kd_s2 output/student_s1
  tools/report.py output/fam_kd_s1 --format csv --no-plots
"""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument("--output", type=Path, default=Path("output/report"), help="folder to fill")
    parser.add_argument("--format", choices=FORMATS, default="text", help="of what is printed")
    parser.add_argument("--plots", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> int:
    """Write the report; returns the exit status."""
    args = parse_arguments()
    try:
        runs = [read_run(folder) for folder in args.runs]
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    groups = group_by_experiment(runs)
    tables = [table for table in (score_table(groups), gamma_table(groups)) if table]
    print("\n".join(format_table(table, args.format) for table in tables))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "report.csv").write_text(format_table(tables[0], "csv"))
    text = "\n".join(format_table(table, "markdown") for table in tables)
    pictures = write_plots(groups, args.output) if args.plots else []
    images = "\n\n".join(f"![{name}]({name})" for name in pictures)
    (args.output / "report.md").write_text(f"# Report\n\n{text}\n{images}\n")
    print(f"Written to {args.output}: report.md, report.csv{''.join(f', {p}' for p in pictures)}")
    return 0


def write_plots(groups: Sequence[Sequence[Run]], output: Path) -> list[str]:
    """Plots of all runs, and of the first run of each experiment; the names of their files."""
    names = (
        ["learning_curves.png"]
        if plot_learning_curves(groups, output / "learning_curves.png")
        else []
    )
    for runs in groups:
        run = runs[0]
        for kind, plot in (("gammas", plot_gammas), ("filters", plot_filters)):
            name = f"{run.folder.resolve().name}_{kind}.png"
            names += [name] if plot(run, output / name) else []
        name = f"{run.folder.resolve().name}_maps.png"
        names += [name] if write_maps(run, output / name) else []
    return names


def write_maps(run: Run, file: Path) -> bool:
    """Stage maps of a classifier; says on stderr why there are none if its data are gone."""
    if not run.is_classifier or not run.distilled or not run.weights:
        return False
    from classification.stage_maps import plot_stage_maps  # seconds: Detectron2 and the data

    try:
        return plot_stage_maps(run.folder / "config.yaml", run.weights, 0, file)
    except ValueError as error:
        print(f"{run.folder}: no picture of maps: {error}", file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(main())
