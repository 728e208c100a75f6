"""One line of the doctor's report."""

import re
import textwrap
from typing import NamedTuple

OK = "ok"
NOTE = "note"  # worth knowing; a training can start
GAP = "gap"  # something needed is missing or broken
INDENT = " " * 27  # of what is found, behind state and name


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

    def wrapped(self, width: int) -> str:
        """The same within ``width`` columns, the advice on lines of its own if it is long."""
        if len(str(self)) <= width:
            return str(self)
        texts = [f"{self.state:<5} {self.name:<20} {self.found}"]
        texts += [f"{INDENT}-> {self.advice}"] if self.advice else []
        wrap = textwrap.TextWrapper(
            width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
        )
        return "\n".join(wrap.fill(text) for text in texts)


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
