"""Writes ``deploy.md`` and ``deploy.json``: table, machine and code that loads the files."""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fam_det.analysis.tables import format_number, format_table
from fam_det.export.formats import write_metadata
from fam_det.export.measure import Row
from fam_det.export.parts import describe_device

COLUMNS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row.title,
    "file": lambda row: row.file,
    "MB": lambda row: format_number(row.size, 1e-6, 1),
    "parameters, M": lambda row: format_number(row.parameters, 1e-6, 2),
    "GFLOPs": lambda row: format_number(row.flops, 1e-9, 2),
    "latency, ms": lambda row: format_number(row.seconds, 1e3, 1),
    "speedup": lambda row: format_number(row.speedup, 1.0, 2),
    "AP": lambda row: format_number(row.ap, 1.0, 1),
    "AP50": lambda row: format_number(row.ap50, 1.0, 1),
    "top-1": lambda row: format_number(row.top1, 1.0, 2),
    "top-5": lambda row: format_number(row.top5, 1.0, 2),
    "beside PyTorch": lambda row: row.check,
}
LEFT = ("", "file", "beside PyTorch")  # aligned


@dataclass(frozen=True)
class Report:
    """A deployment's measurements and notes."""

    checkpoint: str  # of the student
    image_size: tuple[int, int]  # (H, W) of the image that was measured
    input_format: str  # order of its channels
    sizes: Sequence[int]  # INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST; a classifier's INPUT.SIZE
    categories: Sequence[Mapping[str, Any]]  # "id" and "name" by class index, none if not known
    rows: Sequence[Row]
    notes: Sequence[str]
    code: str  # Markdown with the Python that runs each file
    scores: str = ""  # name of the scores and their data, "" for none
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # seconds by network
    needs: Sequence[str] = ()  # packages besides Detectron2 that config.yaml needs

    def text(self, style: str) -> str:
        """Returns table and notes, as "text" or "markdown"."""
        height, width = self.image_size
        machine = (
            f"One {self.input_format} image of {height} x {width} on {describe_device('cpu')}, "
            f"PyTorch {torch.__version__}; latency without resizing and drawing, GFLOPs are "
            "multiply-adds / 1e9."
        )
        if self.scores:
            machine += f" {self.scores}."
        cells = [{title: cell(row) for title, cell in COLUMNS.items()} for row in self.rows]
        blocks = [format_table(cells, style, left=LEFT), machine]
        if self.parts:
            names = dict.fromkeys(name for seconds in self.parts.values() for name in seconds)
            cells = [
                {"": network, **{name: format_number(seconds.get(name), 1e3, 1) for name in names}}
                for network, seconds in self.parts.items()
            ]
            table = format_table(cells, style, left=LEFT)
            blocks.append(f"Milliseconds in PyTorch by part:\n\n{table}")
        return "\n\n".join([*blocks, *self.lines()]) + "\n"

    def lines(self) -> list[str]:
        """Returns notes and errors, one line each."""
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
        """Writes both files, and the categories into the student's ONNX files."""
        page = f"# Deployed student\n\n{self.text('markdown')}\n{self.code}"
        (folder / "deploy.md").write_text(page, encoding="utf-8")
        content = asdict(self) | {
            "notes": self.lines(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        del content["code"]
        (folder / "deploy.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for row in self.rows:
            if row.network == "student" and row.file.endswith(".onnx") and self.categories:
                write_metadata(folder / row.file, categories=json.dumps(self.categories))
