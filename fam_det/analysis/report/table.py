"""The tables of a report: scores over seeds beside the published figures, and the gammas."""

import csv
import io
from collections.abc import Callable, Sequence

from tabulate import tabulate
from tqdm import tqdm

from fam_det.analysis.report.published import GAMMAS, SUPPLEMENT
from fam_det.analysis.report.rows import Row
from fam_det.analysis.report.runs import SCORES

FORMATS = {"text": "simple", "markdown": "pipe"}
NOTHING = "-"
OTHER_SCHEDULE = "*"
Cells = list[str]


def format_report(rows: Sequence[Row], style: str) -> str:
    """All tables, a section a data set, in one of ``FORMATS``."""
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
    """A table; the first row is its header. Columns in which no row says anything are left out."""
    shown = [column for column in zip(*cells, strict=True) if any(column[1:])]
    header, *body = [list(row) for row in zip(*shown, strict=True)]
    body = [[cell or NOTHING for cell in row] for row in body]
    table: str = tabulate(body, header, tablefmt=FORMATS[style], disable_numparse=True)
    return table


def score_table(rows: Sequence[Row]) -> list[Cells]:
    """A header, then a row each; the rows are of one data set."""
    scores = SCORES[rows[0].runs[0].task]
    (_, digits), *_ = scores.values()
    titles = [title for title, _ in scores.values()]
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("student", lambda row: row.experiment.student),
        ("teacher", lambda row: row.experiment.teacher or ""),
        ("method", lambda row: row.experiment.method),
        ("settings", lambda row: row.settings),
        ("runs", format_runs),
        ("iterations", format_iterations),
        *[
            (title, lambda row, k=key, d=places: format_score(row, k, d))
            for key, (title, places) in scores.items()
        ],
        ("best", lambda row: row.best.format(digits) if row.best else ""),
        ("published", lambda row: format_published(row, digits)),
        ("student, M", lambda row: millions(row.parameters and row.parameters.student)),
        ("distiller, M", lambda row: millions(row.parameters and row.parameters.distiller)),
        ("training", lambda row: tqdm.format_interval(row.seconds.mean)),
    ]
    header = [title for title, _ in columns]
    header[header.index("best")] = f"best {titles[0]}"
    body = [[cell(row) for _, cell in columns] for row in rows]
    main = header.index(titles[0])
    for line in body:
        line[main] = line[main] or NOTHING  # the column that is never left out
    return [header, *body]


def format_score(row: Row, key: str, digits: int) -> str:
    """Mean and standard deviation of a score."""
    return row.scores[key].format(digits) if key in row.scores else ""


def format_runs(row: Row) -> str:
    """How many runs the means are of, and of how many if some are not finished."""
    counted, every = len(row.counted), len(row.runs)
    return str(every) if counted == every else f"{counted} of {every}"


def format_iterations(row: Row) -> str:
    """Iterations of the training, and how far an unfinished one is."""
    done, asked = min(run.iterations for run in row.counted), row.runs[0].max_iter
    return f"{asked}" if done >= asked else f"{done} of {asked}"


def format_published(row: Row, digits: int) -> str:
    """The published figure, marked if it is of another schedule."""
    if row.published is None:
        return ""
    return f"{row.published.value:.{digits}f}" + OTHER_SCHEDULE * (not row.same_schedule)


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Where the published figures are from, and what the mark means."""
    published = [row for row in rows if row.published]
    if not published:
        return []
    sources = dict.fromkeys(row.published.source for row in published if row.published)
    text = f"Published: {'; '.join(sources)}."
    if not all(row.same_schedule for row in published):
        text += f" ({OTHER_SCHEDULE}: of another number of training images seen; not comparable.)"
    return [text]


def gamma_table(rows: Sequence[Row]) -> list[Cells]:
    """gamma1 / gamma2 of each stage, as in the supplement's tables A.3 and A.4, then the published.

    The rows are of one data set.
    """
    stages = list(dict.fromkeys(stage for row in rows for stage in row.gammas))
    stages.sort(key=lambda stage: stage == "pooled")
    table = [["student", "teacher", "method", "settings", *stages]]
    for row in rows:
        if row.gammas:
            cells = [format_gammas(row, stage) for stage in stages]
            names = (row.experiment.student, row.experiment.teacher or "", row.experiment.method)
            table.append([*names, row.settings, *cells])
    for experiment in dict.fromkeys(row.experiment for row in rows if row.experiment in GAMMAS):
        pairs = GAMMAS[experiment]
        cells = ["{:.2f} / {:.2f}".format(*pairs[s]) if s in pairs else "" for s in stages]
        names = (experiment.student, experiment.teacher or "", f"{experiment.method}, published")
        table.append([*names, SUPPLEMENT, *cells])
    return table


def format_gammas(row: Row, stage: str) -> str:
    """Such as ``5.65 / 0.37``."""
    if stage not in row.gammas:
        return ""
    return " / ".join(gamma.format(2) for gamma in row.gammas[stage])


def millions(count: int | None) -> str:
    """A count in millions; nothing for none."""
    return f"{count / 1e6:.2f}" if count else ""


def format_csv(rows: Sequence[Row]) -> str:
    """Everything in one table of plain numbers; a column that a row lacks is empty."""
    records = [record(row) for row in rows]
    text = io.StringIO()
    header = list(dict.fromkeys(key for entry in records for key in entry))
    writer = csv.DictWriter(text, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def record(row: Row) -> dict[str, object]:
    """A row's plain figures by column."""
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
        "seconds": row.seconds.mean,
        "published": published.value if published else "",
        "published_source": published.source if published else "",
        "published_same_schedule": row.same_schedule if published else "",
    }
    estimates = {**row.scores, **({"best": row.best} if row.best else {})}
    for stage, (for_global, for_local) in row.gammas.items():
        estimates[f"gamma1_{stage}"], estimates[f"gamma2_{stage}"] = for_global, for_local
    for key, value in estimates.items():
        entry[f"{key} mean"] = value.mean
        entry[f"{key} std"] = "" if value.std is None else value.std
    return entry
