"""Reads files without running code in them, and reports each mistake in one clear line."""

from reprlib import Repr

_repr = Repr()
_repr.maxstring = _repr.maxother = 200

short = _repr.repr  # shows a value of a data file in a message, shortened


def one_line(error: BaseException, max_length: int = 2000) -> str:
    """Returns the message of an error on one line, or its type if it has no message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(text).split()) or type(error).__name__
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."
