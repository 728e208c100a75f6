"""``deploy.md`` and ``deploy.json``: the table, where it was measured, how to load the files."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from fam_det.export.measure import Row

STYLES = {"text": "simple", "markdown": "pipe"}
COLUMNS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row.title,
    "file": lambda row: row.file or NOTHING,
    "MB": lambda row: _scaled(row.size, 1e-6, 1),
    "parameters, M": lambda row: _scaled(row.parameters, 1e-6, 2),
    "GFLOPs": lambda row: _scaled(row.flops, 1e-9, 2),
    "latency, ms": lambda row: _scaled(row.seconds, 1e3, 1),
    "speedup": lambda row: _scaled(row.speedup, 1.0, 2),
    "AP": lambda row: _scaled(row.ap, 1.0, 1),
    "AP50": lambda row: _scaled(row.ap50, 1.0, 1),
    "top-1": lambda row: _scaled(row.top1, 1.0, 2),
    "top-5": lambda row: _scaled(row.top5, 1.0, 2),
    "beside PyTorch": lambda row: row.check or NOTHING,
}
LEFT = ("", "file", "beside PyTorch")
NOTHING = "-"


@dataclass(frozen=True)
class Report:
    """A deployment's measurements and notes."""

    checkpoint: str  # where the weights are from
    image_size: tuple[int, int]  # (H, W) of the image that was measured
    input_format: str  # order of its channels
    sizes: Sequence[int]  # INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST; a classifier's INPUT.SIZE
    categories: Sequence[Mapping[str, Any]]  # "id" and "name" by class index, none if not known
    needs: list[str]  # packages besides Detectron2 that config.yaml needs
    rows: Sequence[Row]
    parts: Mapping[str, Mapping[str, float]]  # seconds in PyTorch, by network
    scores: str  # what was evaluated and on what, "" for nothing
    notes: Sequence[str]
    threads: int  # that PyTorch computed with
    code: str  # Markdown with the Python that runs each file

    def text(self, style: str) -> str:
        """Returns table and notes in one of ``STYLES``."""
        height, width = self.image_size
        machine = (
            f"One {self.input_format} image of {height} x {width} on the CPU, {self.threads} "
            f"thread{'s' * (self.threads > 1)}, PyTorch {torch.__version__}; latency without "
            "resizing and drawing, GFLOPs are multiply-adds / 1e9."
        )
        if self.scores:
            machine += f" {self.scores}."
        blocks = [format_rows(self.rows, style), machine]
        if self.parts:
            blocks.append(f"Milliseconds in PyTorch by part:\n\n{format_parts(self.parts, style)}")
        return "\n\n".join([*blocks, *self.lines()]) + "\n"

    def lines(self) -> list[str]:
        """Returns what is out of the ordinary, one line each."""
        lines = [*self.notes, *[row.error for row in self.rows if row.error]]
        if not self.needs:
            return lines
        first = "fam_det.modeling" if self.needs[0] == "fam_det" else self.needs[0]
        needed = (
            f"`import {first}` is needed with config.yaml: plain Detectron2 lacks the "
            f"student's backbone (from {', '.join(self.needs)})"
        )
        return [needed, *lines]

    def write(self, folder: Path) -> None:
        """Writes both files."""
        page = f"# Deployed student\n\n{self.text('markdown')}\n{self.code}"
        (folder / "deploy.md").write_text(page, encoding="utf-8")
        content = asdict(self) | {
            "rows": [row._asdict() for row in self.rows],
            "notes": self.lines(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        del content["code"]
        (folder / "deploy.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def format_rows(rows: Sequence[Row], style: str) -> str:
    """Returns the table in one of ``STYLES``, without columns that were not measured."""
    cells = [[cell(row) for cell in COLUMNS.values()] for row in rows]
    used = [any(line[i] != NOTHING for line in cells) for i in range(len(COLUMNS))]
    return _table(
        list(compress(COLUMNS, used)), [list(compress(line, used)) for line in cells], style
    )


def format_parts(parts: Mapping[str, Mapping[str, float]], style: str) -> str:
    """Returns the table of the time of each part of each network."""
    names = list(dict.fromkeys(part for seconds in parts.values() for part in seconds))
    lines = [
        [network, *[_scaled(seconds.get(part), 1e3, 1) for part in names]]
        for network, seconds in parts.items()
    ]
    return _table(["", *names], lines, style)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]], style: str) -> str:
    alignment = ["left" if name in LEFT else "right" for name in header]
    table: str = tabulate(
        lines, header, tablefmt=STYLES[style], disable_numparse=True, colalign=alignment
    )
    return table


def _scaled(value: float | None, factor: float, digits: int) -> str:
    return NOTHING if value is None else f"{factor * value:,.{digits}f}"
