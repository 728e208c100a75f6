"""The tables of a report: scores over seeds beside the published figures, and the gammas."""

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate
from tqdm import tqdm

from fam_det.analysis.experiment import Experiment
from fam_det.analysis.published import GAMMAS, SUPPLEMENT
from fam_det.analysis.rows import Row
from fam_det.analysis.runs import SCORES

FORMATS = {"text": "simple", "markdown": "pipe"}
NOTHING = "-"
OTHER_SCHEDULE = "*"
Cells = list[str]


def format_report(rows: Sequence[Row], style: str) -> str:
    """Returns all tables, a section per data set, in one of ``FORMATS``."""
    parts = []
    for data_set in dict.fromkeys(row.experiment.data_set for row in rows):
        own = [row for row in rows if row.experiment.data_set == data_set]
        parts.append(f"## {data_set}" if style == "markdown" else data_set.upper())
        parts += [format_table(score_table(own), style), *footnotes(own)]
        if any(row.gammas for row in own):
            parts.append("gamma1 / gamma2 (global / local branch) after training, by stage:")
            parts.append(format_table(gamma_table(own), style))
    return "\n\n".join(parts) + "\n"


def format_table(cells: Sequence[Cells], style: str) -> str:
    """Formats a header and rows; leaves out columns that are empty in every row."""
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    header, *rows = zip(*columns, strict=True)
    body = [[cell or NOTHING for cell in row] for row in rows]
    table: str = tabulate(body, header, tablefmt=FORMATS[style], disable_numparse=True)
    return table


def score_table(rows: Sequence[Row]) -> list[Cells]:
    """Returns a header and a line per row, for rows of one data set."""
    lines = [score_cells(row) for row in rows]
    return [list(lines[0]), *(list(line.values()) for line in lines)]


def score_cells(row: Row) -> dict[str, str]:
    """Returns the cells of a row by the titles of their columns."""
    titles = SCORES[row.runs[0].task]
    main, digits = next(iter(titles.values()))
    counted, every = len(row.counted), len(row.runs)
    done, asked = min(run.iterations for run in row.counted), row.runs[0].max_iter
    cells = {
        **name_cells(row.experiment),
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
    cells["student, M"] = millions(row.parameters and row.parameters.student)
    cells["distiller, M"] = millions(row.parameters and row.parameters.distiller)
    cells["training"] = tqdm.format_interval(row.seconds)
    return cells


def name_cells(experiment: Experiment) -> dict[str, str]:
    """Returns the first cells of every table."""
    teacher = experiment.teacher or ""
    return {"student": experiment.student, "teacher": teacher, "method": experiment.method}


def millions(count: int | None) -> str:
    """Formats a count in millions; zero and None as empty text."""
    return f"{count / 1e6:.2f}" if count else ""


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


def gamma_table(rows: Sequence[Row]) -> list[Cells]:
    """Returns gamma1 / gamma2 by stage, as the supplement's tables A.3 and A.4, then the published.

    The rows are of one data set.
    """
    stages = list(dict.fromkeys(stage for row in rows for stage in row.gammas))
    stages.sort(key=lambda stage: stage == "pooled")
    table = [["student", "teacher", "method", "settings", *stages]]
    for row in rows:
        if row.gammas:
            texts = {s: [gamma.format(2) for gamma in pair] for s, pair in row.gammas.items()}
            cells = [" / ".join(texts.get(stage, [])) for stage in stages]
            table.append([*name_cells(row.experiment).values(), row.settings, *cells])
    for experiment in dict.fromkeys(row.experiment for row in rows if row.experiment in GAMMAS):
        pairs = GAMMAS[experiment]
        cells = ["{:.2f} / {:.2f}".format(*pairs[s]) if s in pairs else "" for s in stages]
        student, teacher, method = name_cells(experiment).values()
        table.append([student, teacher, f"{method}, published", SUPPLEMENT, *cells])
    return table


def format_csv(rows: Sequence[Row]) -> str:
    """Returns everything as one table of plain numbers; a column that a row lacks is empty."""
    records = [record(row) for row in rows]
    text = io.StringIO()
    header = list(dict.fromkeys(key for entry in records for key in entry))
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def record(row: Row) -> dict[str, object]:
    """Returns a row's plain figures by column."""
    published, parameters = row.published, row.parameters
    entry: dict[str, object] = {
        "data_set": row.experiment.data_set,
        "teacher": row.experiment.teacher or "",
        "student": row.experiment.student,
        "method": row.experiment.method,
        "settings": row.settings,
        "folders": " ".join(str(run.folder) for run in row.runs),
        "runs": len(row.runs),
        "runs_counted": len(row.counted),
        "iterations": min(run.iterations for run in row.counted),
        "max_iter": row.runs[0].max_iter,
        "student_parameters": parameters.student if parameters else "",
        "distiller_parameters": parameters.distiller if parameters else "",
        "seconds": row.seconds,
        "published": published.value if published else "",
        "published_source": published.source if published else "",
        "published_same_schedule": row.same_schedule if published else "",
    }
    estimates = {**row.scores, **({"best": row.best} if row.best else {})}
    for stage, (gamma1, gamma2) in row.gammas.items():
        estimates[f"gamma1_{stage}"], estimates[f"gamma2_{stage}"] = gamma1, gamma2
    for key, value in estimates.items():
        entry[f"{key} mean"] = value.mean
        entry[f"{key} std"] = "" if value.std is None else value.std
    return entry
