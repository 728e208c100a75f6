"""The tables of a report: scores over seeds with published figures, and gammas."""

import csv
import io
from collections.abc import Collection, Sequence

from tabulate import tabulate
from tqdm import tqdm

from fam_det.analysis.checkpoint import Parameters
from fam_det.analysis.published import GAMMAS, SUPPLEMENT
from fam_det.analysis.rows import Row, compare
from fam_det.analysis.runs import SCORES

FORMATS = {"text": "simple", "markdown": "pipe"}
NOTHING = "-"
OTHER_SCHEDULE = "*"
Cells = dict[str, str]  # by the titles of their columns


def format_report(rows: Sequence[Row], style: str) -> str:
    """Returns all tables, a section per test set, in one of ``FORMATS``."""
    parts = []
    for test_set, section in by_test_set(rows).items():
        parts.append(f"## {test_set}" if style == "markdown" else test_set.upper())
        parts += [format_table(section_cells(section), style), *footnotes(section)]
        if any(row.gammas for row in section):
            parts.append("gamma1 / gamma2 (global / local branch) after training, by stage:")
            parts.append(format_table(gamma_cells(section), style))
    return "\n\n".join(parts) + "\n"


def by_test_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Groups rows by their test data, teachers first."""
    sections: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: not row.is_teacher):
        sections.setdefault(row.test_set, []).append(row)
    return sections


def section_cells(rows: Sequence[Row]) -> list[Cells]:
    """Returns the scores of rows of one test set, with their differences."""
    is_shared = len({row.experiment.data_set for row in rows}) == 1
    reference, differences = compare(rows)
    main, digits = next(iter(SCORES[rows[0].runs[0].task].values()))
    table = []
    for row, difference in zip(rows, differences, strict=True):
        cells: Cells = {}
        for title, text in score_cells(row).items():
            cells[title] = text
            if title == "settings":
                cells["trained on"] = "" if is_shared else row.experiment.data_set
            if title == main:
                text = "" if difference is None else f"{difference:+.{digits}f}"
                cells[f"to {reference}"] = text
        table.append(cells)
    return table


def format_table(rows: Sequence[Cells], style: str, left: Collection[str] | None = None) -> str:
    """Formats cells by column; leaves out columns that are empty in every row.

    ``left`` are the left-aligned columns, by default all.
    """
    header = [title for title in rows[0] if any(row[title] for row in rows)]
    body = [[row[title] or NOTHING for title in header] for row in rows]
    sides = ["left" if left is None or title in left else "right" for title in header]
    return tabulate(body, header, FORMATS[style], disable_numparse=True, colalign=sides)


def format_number(value: float | None, factor: float, digits: int) -> str:
    """Returns ``factor`` * value, "" for None."""
    return "" if value is None else f"{factor * value:,.{digits}f}"


def score_cells(row: Row) -> Cells:
    """Returns the scores of a row, with its schedule and sizes."""
    titles = SCORES[row.runs[0].task]
    main, digits = next(iter(titles.values()))
    counted, every = len(row.counted), len(row.runs)
    done, asked = row.iterations, row.runs[0].max_iter
    cells = {
        **name_cells(row),
        "settings": row.settings,
        "runs": f"{every}" if counted == every else f"{counted} of {every}",
        "iterations": f"{asked}" if done >= asked else f"{done} of {asked}",
    }
    for key, (title, places) in titles.items():
        cells[title] = row.scores[key].format(places) if key in row.scores else ""
    cells[main] = cells[main] or NOTHING  # the column that is never left out
    cells[f"best {main}"] = row.best.format(digits) if row.best else ""
    cells["published"] = ""
    if row.published:
        mark = "" if row.same_schedule else OTHER_SCHEDULE
        cells["published"] = f"{row.published.value:.{digits}f}{mark}"
    for network in Parameters._fields:
        count = getattr(row.parameters, network, 0)
        cells[f"{network}, M"] = f"{count / 1e6:.2f}" if count else ""
    cells["training"] = tqdm.format_interval(row.seconds)
    return cells


def name_cells(row: Row) -> Cells:
    """Returns the first cells of every table."""
    teacher = row.teacher_name or ""
    return {"network": row.experiment.student, "teacher": teacher, "method": row.method}


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Returns the sources of the published figures, and the meaning of the mark."""
    published = [row for row in rows if row.published]
    if not published:
        return []
    sources = dict.fromkeys(row.published.source for row in published if row.published)
    text = f"Published: {'; '.join(sources)}."
    if not all(row.same_schedule for row in published):
        text += f" ({OTHER_SCHEDULE}: of another number of training images seen; not comparable.)"
    return [text]


def gamma_cells(rows: Sequence[Row]) -> list[Cells]:
    """Returns gamma1 / gamma2 by stage as the supplement's tables A.3 and A.4, then published ones.

    The rows are of one data set.
    """
    stages = list(dict.fromkeys(stage for row in rows for stage in row.gammas))
    stages.sort(key=lambda stage: stage == "pooled")
    table = []
    for row in rows:
        if row.gammas:
            cells = dict.fromkeys(stages, "")
            for stage, pair in row.gammas.items():
                branches = zip(("global", "local"), pair, strict=True)
                texts = [x.format(2) if name in row.branches else "off" for name, x in branches]
                cells[stage] = " / ".join(texts)
            table.append({**name_cells(row), "settings": row.settings, **cells})
    for row in {row.experiment: row for row in rows if row.experiment in GAMMAS}.values():
        pairs = GAMMAS[row.experiment]
        names = name_cells(row) | {"method": f"{row.experiment.method}, published"}
        cells = {s: "{:.2f} / {:.2f}".format(*pairs[s]) if s in pairs else "" for s in stages}
        table.append({**names, "settings": SUPPLEMENT, **cells})
    return table


def format_csv(rows: Sequence[Row]) -> str:
    """Returns all rows as one table of plain numbers; missing values are empty."""
    records = []
    for section in by_test_set(rows).values():
        reference, differences = compare(section)
        for row, difference in zip(section, differences, strict=True):
            records.append(record(row) | {f"to {reference}": difference})
    text = io.StringIO()
    header = list(dict.fromkeys(key for entry in records for key in entry))
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def record(row: Row) -> dict[str, object]:
    """Returns a row's numbers by column, None for an empty cell."""
    published, parameters = row.published, row.parameters
    entry: dict[str, object] = {
        **vars(row.experiment),
        "teacher": row.teacher_name,
        "method": row.method,
        "test_set": row.test_set,
        "settings": row.settings,
        "folders": " ".join(str(run.folder) for run in row.runs),
        "runs": len(row.runs),
        "runs_counted": len(row.counted),
        "iterations": row.iterations,
        "max_iter": row.runs[0].max_iter,
        "student_parameters": parameters and parameters.student,
        "distiller_parameters": parameters and parameters.distiller,
        "seconds": row.seconds,
        "published": published and published.value,
        "published_source": published and published.source,
        "published_same_schedule": published and row.same_schedule,
    }
    estimates = row.scores | ({"best": row.best} if row.best else {})
    for stage, (gamma1, gamma2) in row.gammas.items():
        estimates |= {f"gamma1_{stage}": gamma1, f"gamma2_{stage}": gamma2}
    for key, value in estimates.items():
        entry |= {f"{key} mean": value.mean, f"{key} std": value.std}
    return entry
