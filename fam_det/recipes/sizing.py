"""Finds the largest student that is fast enough: measures the ladder and saves the choice."""

import json
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fam_det.analysis.tables import format_number, format_table
from fam_det.export.parts import describe_device
from fam_det.files.atomic_write import atomic_write_text
from fam_det.recipes.ladder import build_ladder
from fam_det.recipes.meter import RUNTIMES, Measurement, Meter
from fam_det.recipes.overrides import Override
from fam_det.recipes.recipe import Request, teacher_keys

from detectron2.utils.file_io import PathManager

FILE = "ladder.json"
TOGETHER = 4  # students that are measured alternately, and so in memory at once
# Parts of a request that must be the same in a resumed run.
FIXED = ("target", "runtime", "teacher", "student", "student_weights")


@dataclass(frozen=True)
class Target:
    """The required speed of a student, by one of two measures; neither to measure all students."""

    speedup: float | None = None  # over the teacher
    latency: float | None = None  # in milliseconds
    runtime: str = "pytorch"  # of RUNTIMES

    def is_met(self, row: Measurement) -> bool:
        """Returns whether a student is fast enough."""
        if self.speedup is not None:
            return row.speedup >= self.speedup
        return self.latency is not None and 1e3 * row.seconds <= self.latency

    def flag(self) -> str:
        """Returns the user's flag."""
        if self.speedup is not None:
            return f"--speedup {self.speedup:g}"
        return f"--latency {self.latency:g}" if self.latency is not None else "--ladder"


class Sizing:
    """Measures a request's ladder as far as a target needs it.

    Raises:
        ValueError: a flag that cannot be met.
    """

    def __init__(self, request: Request, target: Target) -> None:
        teacher, _, base = teacher_keys(request)
        self.target = target
        self._build = partial(build_ladder, request, teacher, base)
        self.ladder = self._build()
        self.without: list[str] = []  # students whose weights cannot be downloaded
        self.meter = Meter(self.ladder[0].cfg, request.val, target.runtime)
        self.rows: dict[int, Measurement] = {}  # by rung
        self.teacher: Measurement | None = None

    def measure_all(self) -> None:
        """Measures every rung."""
        indices = range(len(self.ladder))
        for start in indices[::TOGETHER]:
            self._measure(indices[start : start + TOGETHER])

    def choose(self) -> int:
        """Returns the first rung that meets the target, and downloads its pretrained weights.

        Raises:
            ValueError: none meets it.
            OSError: no weights of those that meet it can be downloaded.
        """
        # Speed rises along the ladder, so a binary search measures few rungs.
        index = bisect_left(range(len(self.ladder)), True, key=self._is_met)
        if index == len(self.ladder):
            fastest = max(self.rows.values(), key=lambda row: row.speedup)
            raise ValueError(
                f"{self.target.flag()}: no student is that fast, the fastest is "
                f"{self._describe(fastest)}; ask for less, or take a smaller --student or smaller "
                "images"
            )
        try:
            self._fetch(index)
        except OSError as error:
            self._leave_out(self.ladder[index].student, error)
            return self.choose()
        return index

    def _fetch(self, index: int) -> None:
        if weights := self.ladder[index].cfg.MODEL.WEIGHTS:
            PathManager.get_local_path(weights)

    def _leave_out(self, student: str, error: OSError) -> None:
        """Removes a student from the ladder; raises the error if no other is left."""
        self.without.append(student)
        ladder = self._build(without=self.without)
        if not ladder or any(rung.student == student for rung in ladder):  # the user's own
            raise error
        print(f"left out: {error}", file=sys.stderr, flush=True)
        measured = [(self.ladder[i], row) for i, row in self.rows.items()]
        self.rows = {ladder.index(rung): row for rung, row in measured if rung in ladder}
        self.ladder = ladder

    def _is_met(self, index: int) -> bool:
        if index not in self.rows:
            self._measure([index])
        return self.target.is_met(self.rows[index])

    def _measure(self, indices: Sequence[int]) -> None:
        names = ", ".join(self.ladder[i].name for i in indices)
        print(f"measuring {names} beside the teacher", file=sys.stderr, flush=True)
        teacher, rows = self.meter.measure([self.ladder[i] for i in indices])
        self.teacher = self.teacher or teacher
        self.rows |= dict(zip(indices, rows, strict=True))

    def record(self, asked: dict[str, Any], index: int) -> dict[str, Any]:
        """Returns the choice of a rung for the JSON file."""
        return {
            "asked": asked,
            "student": self.ladder[index].student,
            "keys": self.ladder[index].keys,
            "note": self.note(index),
            "rows": [row._asdict() for row in self._table()],
        }

    def note(self, index: int) -> str:
        """Returns a line on the chosen rung."""
        return f"student chosen by {self.target.flag()}: {self._describe(self.rows[index])}"

    def _describe(self, row: Measurement) -> str:
        proposals = f"{row.proposals} proposals, " if row.proposals else ""
        return (
            f"{row.name}, FPN of {row.width}, {proposals}{row.size[0]} x {row.size[1]}, "
            f"{row.speedup:.1f} times the teacher's speed in {RUNTIMES[self.target.runtime]}, "
            f"{1e3 * row.seconds:.1f} ms on {describe_device(self.meter.device)}"
        )

    def _table(self) -> list[Measurement]:
        assert self.teacher is not None
        return [self.teacher, *(self.rows[i] for i in sorted(self.rows))]

    def text(self) -> str:
        """Returns the table of measurements, and how they were made."""
        meter = self.meter
        proposals = (
            f"{meter.teacher_outputs.proposals} proposals and "
            if meter.teacher_outputs.proposals
            else ""
        )
        what = f"{proposals}{meter.teacher_outputs.detections} detections"
        scene = f"every student is given what the teacher finds there, {what}"
        if not meter.is_trained:
            scene = (
                f"the teacher has random weights: all are given {what}, as many as they may have"
            )
        return (
            f"{format_rows(self._table(), RUNTIMES[self.target.runtime])}\n\n"
            f"{meter.file.name} ({meter.size[0]} x {meter.size[1]} before resizing) on "
            f"{describe_device(meter.device)}, PyTorch {torch.__version__}; parts in PyTorch, ms. "
            f"Random weights; {scene}."
        )


def format_rows(rows: Sequence[Measurement], runtime: str) -> str:
    """Returns the table."""
    parts = dict.fromkeys(name for row in rows for name in row.parts)
    cells = [
        {
            "": row.name,
            "FPN width": str(row.width),
            "RPN width": str(row.hidden or ""),
            "samples": {None: "", 0: "1-16"}.get(row.samples, str(row.samples)),
            "proposals": str(row.proposals or ""),
            "image": f"{row.size[0]} x {row.size[1]}",
            "M": format_number(row.parameters, 1e-6, 2),
            "MB": format_number(row.bytes, 1e-6, 1),
            **{name: format_number(row.parts.get(name), 1e3, 1) for name in parts},
            f"{runtime}, ms": format_number(row.seconds, 1e3, 1),
            "speed": f"{row.speedup:.1f}x",
        }
        for row in rows
    ]
    return format_table(cells, "text", left=("",))


def size_student(
    request: Request, target: Target, folder: Path, *, resume: bool = False
) -> tuple[Request, str]:
    """Returns the request with the largest student that meets a target, and text to print.

    The choice is saved in ``folder``: the same request reuses it, and a resumed run has the same
    student on any machine.

    Raises:
        ValueError: no student meets it, or a flag cannot be met.
    """
    file = folder / FILE
    asked = _choice_key(request, target)
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    before = saved.get("asked", {"target": "--student"})
    changed = [key for key in (FIXED if resume else asked) if asked[key] != before.get(key)]
    if not changed:
        text = f"{saved['note']}; measured before, see {file}"
    elif resume:
        was = "student was chosen by" if changed[0] == "target" else f"{changed[0]} was"
        raise ValueError(
            f"{target.flag()}: does not resume {folder}, whose {was} {before.get(changed[0])}; "
            "give the flags of its first call"
        )
    else:
        sizing = Sizing(request, target)
        saved = sizing.record(asked, sizing.choose())
        text = f"{sizing.text()}\n\n{saved['note']}"
        atomic_write_text(file, json.dumps(saved, indent=2) + "\n")
    keys = {key: Override(*override) for key, override in saved["keys"].items()}
    return replace(request, student=saved["student"], size=keys, size_note=saved["note"]), text


def _choice_key(request: Request, target: Target) -> dict[str, Any]:
    """Returns everything that the choice depends on."""
    return {
        "target": target.flag(),
        "runtime": target.runtime,
        "teacher": request.teacher,
        "student": request.student,
        "student_weights": request.student_weights,
        "teacher_weights": request.teacher_weights,
        "data": request.val.annotations,
        "device": request.device,
        "threads": torch.get_num_threads(),
        "options": request.options,
    }
