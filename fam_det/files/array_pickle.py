"""Unpickles arrays and plain containers, such as the ``.pkl`` files of Detectron2's model zoo.

No code in a file is run, and a file cannot allocate more memory than its own size. NumPy and the
unpickler written in C would for an array of objects, a record of a claimed gigabyte, or a large
index into the memo.
"""

import codecs
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"[<>|=]?[biufc]\d{1,2}")  # such as f4 and i8
_Unpickler: Any = pickle._Unpickler


def _reconstruct(_: object, shape: tuple[int, ...], code: object) -> NDArray[Any]:
    """Returns an empty array; its state, with shape and numbers, follows in the pickle."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"an array that starts with the shape {shape}")
    return np.empty(0, np.uint8)


def _dtype(name: str, *_: object) -> np.dtype[Any]:
    if not _NUMBER.fullmatch(str(name)):
        raise pickle.UnpicklingError(f"an array of {str(name)[:80]!r}, expected numbers")
    return np.dtype(str(name), False, True)  # a copy: its state may change the byte order


def _scalar(dtype: np.dtype[Any], content: bytes | str) -> Any:
    encoded = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(encoded, dtype, count=1)[0]


def _frombuffer(
    content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> NDArray[Any]:
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _encode(text: str, codec: str) -> bytes:
    if codec not in ("latin1", "latin-1"):  # as Python 2 and 3 write bytes
        raise pickle.UnpicklingError(f"it would call the codec {codec[:80]}")
    return codecs.encode(text, "latin1")


def _ordered_dict(items: Sequence[tuple[str, Any]] = ()) -> OrderedDict[str, Any]:
    _check_keys(key for key, _ in items)
    return OrderedDict(items)


# Names in pickles of arrays, of Python 3 and of Python 2, in which the old zoo was written.
_KNOWN: dict[str, Callable[..., Any] | str] = {
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.ndarray": "ndarray",  # only ever an argument
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered_dict,
}


def _check_keys(keys: Iterable[Any]) -> None:
    """Refuses nested keys: hashing a deeply nested tuple overflows Python's stack."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a key that is a {type(key).__name__}")


def _check_dtype_state(state: Any) -> None:
    """Accepts only a byte order as state; NumPy does not check the rest."""
    is_plain = isinstance(state, tuple) and len(state) == 8 and state[2:5] == (None,) * 3
    if not is_plain or state[:2] not in [(3, order) for order in "<>|="]:
        raise pickle.UnpicklingError("a kind of number with fields, or of an unknown byte order")


def _with_checked_keys(load: Callable[[Any], None], keys: slice) -> Callable[[Any], None]:
    """Returns a pickle instruction that checks the keys on the stack first."""

    def load_checked(unpickler: Any) -> None:
        _check_keys(unpickler.stack[keys])
        load(unpickler)

    return load_checked


class ArrayUnpickler(_Unpickler):
    """Python's own unpickler, restricted to arrays and plain containers."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns one of the few functions that build arrays; refuses all others."""
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.", 1)  # NumPy 2 and 1
        if known not in _KNOWN:
            raise pickle.UnpicklingError(f"it would call {module[:80]}.{name[:80]}")
        return _KNOWN[known]

    def _build(self) -> None:
        instance, state = self.stack[-2:]
        if isinstance(instance, np.dtype):
            _check_dtype_state(state)
        elif not isinstance(instance, np.ndarray):
            raise pickle.UnpicklingError(f"a state for a {type(instance).__name__}")
        _Unpickler.load_build(self)

    def _bytearray(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # Python would allocate the length first

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_Unpickler.dispatch,
        pickle.SETITEM[0]: _with_checked_keys(_Unpickler.load_setitem, slice(-2, None, 2)),
        pickle.SETITEMS[0]: _with_checked_keys(_Unpickler.load_setitems, slice(None, None, 2)),
        pickle.DICT[0]: _with_checked_keys(_Unpickler.load_dict, slice(None, None, 2)),
        pickle.ADDITEMS[0]: _with_checked_keys(_Unpickler.load_additems, slice(None)),
        pickle.FROZENSET[0]: _with_checked_keys(_Unpickler.load_frozenset, slice(None)),
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _bytearray,
    }
