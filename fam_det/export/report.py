"""``deploy.md`` and ``deploy.json``: the table, where it was measured, how to load the files."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fam_det.export.rows import Row, format_rows
from fam_det.export.snippets import usage


@dataclass(frozen=True)
class Report:
    """All that a deployment tells.

    Attributes:
        checkpoint: where the weights are from.
        image_size: (H, W) of the image that was measured.
        input_format: order of its channels.
        sizes: ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``.
        needs: packages besides Detectron2 that ``config.yaml`` needs.
        rows: of the table.
        notes: what else a reader must know.
        threads: that PyTorch computed with.
    """

    checkpoint: str
    image_size: tuple[int, int]
    input_format: str
    sizes: tuple[int, int]
    needs: list[str]
    rows: Sequence[Row]
    notes: Sequence[str]
    threads: int

    def text(self, style: str) -> str:
        """Table and notes for people."""
        height, width = self.image_size
        facts = (
            f"One {self.input_format} image of {height} x {width} on the CPU, {self.threads} "
            f"thread{'s' * (self.threads > 1)}, PyTorch {torch.__version__}; latency without "
            "resizing and drawing, GFLOPs are multiply-adds / 1e9."
        )
        return "\n\n".join([format_rows(self.rows, style), facts, *self.lines()]) + "\n"

    def lines(self) -> list[str]:
        """What is out of the ordinary, one line each."""
        modules = ["fam_det.modeling" if name == "fam_det" else name for name in self.needs[:1]]
        needed = [f"`import {name}` is needed with config.yaml" for name in modules]
        if self.needs:
            needed[0] += (
                f": plain Detectron2 lacks the student's backbone (from {', '.join(self.needs)})"
            )
        return [*needed, *self.notes, *[row.error for row in self.rows if row.error]]

    def write(self, folder: Path) -> None:
        """Write both files."""
        code = usage(
            [row.file for row in self.rows],
            self.sizes,
            self.input_format,
            needs_package=bool(self.needs),
        )
        page = f"# Deployed student\n\n{self.text('markdown')}\n{code}"
        (folder / "deploy.md").write_text(page, encoding="utf-8")
        content = asdict(self) | {
            "rows": [row._asdict() for row in self.rows],
            "notes": self.lines(),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        (folder / "deploy.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
