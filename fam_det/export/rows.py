"""A line of the table: one file or network, what it costs, and whether it does what it should."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate
from torch import Tensor

from fam_det.export.exporting import FORMATS, eager
from fam_det.export.measure import compare, count_flops, count_parameters, latency, weights_size
from fam_det.export.teacher import Teacher
from fam_det.export.words import one_line

STYLES = {"text": "simple", "markdown": "pipe"}
NOTHING = "-"


class Row(NamedTuple):
    """A line of the table; None for what was not measured.

    Attributes:
        name: of the network and format.
        file: what was written.
        size: of it in bytes; for the teacher, of its weights.
        parameters: of the network.
        flops: multiply-adds of one image.
        seconds: median of one image.
        check: how it compares with the student in PyTorch.
        error: why the file is not there or not to be used; "" for all well.
    """

    name: str
    file: str = ""
    size: int | None = None
    parameters: int | None = None
    flops: float | None = None
    seconds: float | None = None
    check: str = ""
    error: str = ""


def detector_row(name: str, detector: Any, image: Tensor, file: Path | None = None) -> Row:
    """Measure a detector in PyTorch."""
    return Row(
        name,
        file.name if file else "",
        file.stat().st_size if file else weights_size(detector),
        count_parameters(detector),
        count_flops(detector, image),
        latency(eager(detector), image),
    )


def teacher_rows(teacher: Teacher, image: Tensor) -> list[Row]:
    """A line for a teacher, if there is one."""
    if teacher.detector is None:
        return []
    return [
        detector_row("teacher", teacher.detector, image.flip(0) if teacher.flip_channels else image)
    ]


def export_row(name: str, student: Any, image: Tensor, folder: Path) -> Row:
    """Export to one of ``FORMATS`` and measure; what goes wrong is in the line."""
    form = FORMATS[name]
    title, file = f"student, {form.title}", folder / form.file
    file.unlink(missing_ok=True)  # what an earlier call left is not this student
    try:
        run = form.export(student, image, file)
        found = compare(run, eager(student), image)
    except Exception as error:  # whatever PyTorch's exporters or a model of one's own raise
        file.unlink(missing_ok=True)
        return Row(title, check="failed", error=failure(name, student, error))
    if not found.close:
        file.unlink()
        return Row(title, check="failed", error=f"--format {name}: removed: {found.describe()}")
    size, seconds = file.stat().st_size, latency(run, image)
    return Row(title, file.name, size, seconds=seconds, check=found.describe())


def failure(name: str, student: Any, error: Exception) -> str:
    """What failed, why, and what to do instead."""
    backbone = getattr(student, "backbone", student)
    part = type(getattr(backbone, "bottom_up", backbone)).__name__  # below an FPN
    other = "; use --format torchscript instead" if name == "scripted" else ""
    what = f"{type(student).__name__} on {part}"
    return f"--format {name}: PyTorch cannot export {what}{other} ({one_line(error)})"


def format_rows(rows: Sequence[Row], style: str) -> str:
    """The table in one of ``STYLES``."""
    header = ["", "file", "MB", "parameters, M", "GFLOPs", "latency, ms", "beside PyTorch"]
    table: str = tabulate(
        [_cells(row) for row in rows],
        header,
        tablefmt=STYLES[style],
        disable_numparse=True,
        colalign=["left", "left", "right", "right", "right", "right", "left"],
    )
    return table


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        row.file or NOTHING,
        _scaled(row.size, 1e-6, 1),
        _scaled(row.parameters, 1e-6, 2),
        _scaled(row.flops, 1e-9, 2),
        _scaled(row.seconds, 1e3, 1),
        row.check or NOTHING,
    ]


def _scaled(value: float | None, factor: float, digits: int) -> str:
    return NOTHING if value is None else f"{factor * value:,.{digits}f}"
