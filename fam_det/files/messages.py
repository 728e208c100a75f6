"""Values of a data file in a message: a huge or nested one is cut."""

from reprlib import Repr

_repr = Repr()
_repr.maxstring = _repr.maxother = 200

short = _repr.repr
