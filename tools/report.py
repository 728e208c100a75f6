#!/usr/bin/env python
"""A table and plots of runs: scores over seeds beside published ones, gammas, filters, maps.

RUN is an output folder of tools/train_net.py or tools/train_classifier.py, finished or not.
Runs that differ only in their seed are one row: mean and sample standard deviation. Runs that were
evaluated on the same data are one table, with the differences to their teacher if its run is among
them, otherwise to the student alone.
"""

import argparse
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from fam_det.analysis.checkpoint import find_checkpoint
from fam_det.analysis.rows import Row, build_rows, title
from fam_det.analysis.run_plots import plot_filters, plot_gammas, plot_learning_curves
from fam_det.analysis.runs import Run, read_run
from fam_det.analysis.tables import FORMATS, by_test_set, format_csv, format_report

EXAMPLE = """
example:
  tools/report.py output/fam_kd_s1 output/fam_kd_s2 output/student_s1 output/student_s2
prints the table and writes report.md, report.csv and the plots to output/report
"""


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, output = parser.add_argument, Path("output/report")
    add("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    add("--output", type=Path, default=output, help="folder to fill (%(default)s)")
    add("--format", choices=[*FORMATS, "csv"], default="text", help="of the printed table")
    yes_or_no = argparse.BooleanOptionalAction
    add("--plots", action=yes_or_no, default=True, help="draw them (default)")
    return parser.parse_args()


def main() -> int:
    """Writes the report; returns 1 if a folder is left out. Only the table goes to stdout."""
    args = parse_arguments()
    folders = dict.fromkeys(folder.resolve() for folder in args.runs)  # without duplicates
    runs = read_runs(folders)
    if not runs:
        return 1
    try:
        rows = build_rows(runs)
        args.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        log(str(error))
        return 1
    for note in [note for row in rows for run in row.runs for note in run.notes]:
        log(note)
    print(format_csv(rows) if args.format == "csv" else format_report(rows, args.format), end="")
    pictures = write_plots(rows, args.output) if args.plots else {}
    images = "".join(f"\n![{caption}]({name})\n" for name, caption in pictures.items())
    text = f"# Report\n\n{format_report(rows, 'markdown')}{images}"
    (args.output / "report.md").write_text(text, encoding="utf-8")
    (args.output / "report.csv").write_text(format_csv(rows), encoding="utf-8")
    log(f"written to {args.output}: report.md, report.csv and {len(pictures)} plots")
    return int(len(runs) < len(folders))


def read_runs(folders: Iterable[Path]) -> list[Run]:
    """Reads the runs; prints the reason for each folder that is left out."""
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            log(f"left out: {error}")
    return runs


def log(text: str) -> None:
    """Prints to standard error: standard output has the table."""
    print(text, file=sys.stderr, flush=True)


def write_plots(rows: Sequence[Row], output: Path) -> dict[str, str]:
    """Draws every plot that the runs have data for; returns captions by the names of the files."""
    pictures: dict[str, str] = {}
    for test_set, section in by_test_set(rows).items():
        name = file_name(f"curves {test_set}", pictures)
        if plot_learning_curves(section, output / name):
            pictures[name] = f"Learning curves, {test_set}"
    plots = {"Gammas": plot_gammas, "Filters": plot_filters, "Maps": plot_maps}
    for row in rows:
        for kind, plot in plots.items():
            name = file_name(f"{kind} {row.counted[0].folder.name}", pictures)
            if plot(row, output / name):
                pictures[name] = f"{kind}: {title(row)}"
    return pictures


def file_name(text: str, used: Collection[str]) -> str:
    """Returns an unused file name for a plot, such as ``gammas_fam_kd_s1.png``."""
    stem = re.sub(r"[^a-z0-9.-]+", "_", text.lower()).strip("_")
    name, number = f"{stem}.png", 2
    while name in used:
        name, number = f"{stem}_{number}.png", number + 1
    return name


def plot_maps(row: Row, file: Path) -> bool:
    """Draws a classifier's stage maps; prints the reason if its data or teacher is missing."""
    run = row.counted[0]
    checkpoint = find_checkpoint(run.folder)
    if run.task != "classification" or row.experiment.teacher is None or checkpoint is None:
        return False
    from classification.stage_maps import plot_stage_maps  # here, as it takes seconds

    try:
        return plot_stage_maps(run.folder / "config.yaml", checkpoint, title(row), file)
    except ValueError as error:
        log(f"{run.folder}: no picture of its maps: {error}")
        return False


if __name__ == "__main__":
    sys.exit(main())
