"""Files from elsewhere: nothing in them runs, and each mistake in one is one clear line."""

from reprlib import Repr

_repr = Repr()
_repr.maxstring = _repr.maxother = 200

short = _repr.repr  # a value of a data file in a message; a huge or nested one is cut


def one_line(error: BaseException, max_length: int = 2000) -> str:
    """Returns the message of an error on one line, or its type where it has none."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(text).split()) or type(error).__name__
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."
