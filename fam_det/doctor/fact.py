"""One line of the doctor's report."""

import re
from typing import NamedTuple

OK = "ok"
NOTE = "note"  # worth knowing; a training can start
GAP = "gap"  # something needed is missing or broken


class Fact(NamedTuple):
    """What was found, and what to do about it.

    Args:
        state: ``OK``, ``NOTE`` or ``GAP``.
        name: of what was looked for.
        found: in words.
        advice: what to do; empty where nothing is.
    """

    state: str
    name: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        """The line of the report."""
        line = f"{self.state:<5} {self.name:<20} {self.found}"
        return f"{line} -> {self.advice}" if self.advice else line


def of_version(name: str, version: str, least: str, advice: str, words: str = "") -> Fact:
    """A fact about an installed version: a gap below ``least``."""
    if _numbers(version) < _numbers(least):
        return Fact(GAP, name, f"{version}, older than {least}", advice)
    return Fact(OK, name, version + words)


def _numbers(version: str) -> tuple[int, ...]:
    """``(2, 14, 1)`` of ``2.14.1+cu130``: the leading numbers of a version."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, leading[0].split("."))) if leading else ()


def in_gigabytes(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
