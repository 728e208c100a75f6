"""Files from elsewhere: nothing in them runs, and each mistake in one is one clear line."""

from reprlib import Repr

_repr = Repr()
_repr.maxstring = _repr.maxother = 200

short = _repr.repr  # a value of a data file in a message; a huge or nested one is cut
