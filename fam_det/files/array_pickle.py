"""Pickles of arrays and plain containers, such as the ``.pkl`` files of Detectron2's model zoo.

Nothing in one runs, and none asks for more memory than its own size: an array of objects, a record
of a gigabyte or a place far out in the memo would do so in NumPy or in the unpickler written in C.
"""

import codecs
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"[<>|=]?[biufc]\d{1,2}")  # such as f4 and i8
# Instructions that hash what a set holds, or make objects.
_UNUSED = {
    code[0]
    for code in (
        *(pickle.ADDITEMS, pickle.FROZENSET, pickle.INST, pickle.OBJ, pickle.NEWOBJ),
        *(pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    )
}


def _reconstruct(_: object, shape: tuple[int, ...], code: object) -> NDArray[Any]:
    """An array of no elements, which is given its shape and numbers later."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"an array that starts with the shape {shape}")
    return np.empty(0, np.uint8)


def _dtype(name: str, *_: object) -> np.dtype[Any]:
    """One of its own: what follows may turn its bytes round."""
    if not _NUMBER.fullmatch(str(name)):
        raise pickle.UnpicklingError(f"an array of {str(name)[:80]!r}, expected numbers")
    return np.dtype(str(name), False, True)


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


def _ordered(items: Iterable[tuple[str, Any]] = ()) -> OrderedDict[str, Any]:
    pairs = [tuple(pair) for pair in items]
    _check_keys([key for key, _ in pairs])
    return OrderedDict(pairs)


# What pickles of arrays name, in NumPy 1 and 2 and in Python 2, in which the old zoo was written.
_KNOWN: dict[tuple[str, str], Callable[..., Any] | str] = {
    **{
        (f"numpy.{core}.multiarray", name): call
        for core in ("core", "_core")
        for name, call in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    },
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy", "ndarray"): "ndarray",  # only ever an argument
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
}


def _check_keys(keys: Iterable[Any]) -> None:
    """Python would follow a key that is nested a million deep until its own stack is full."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a key that is a {type(key).__name__}")


def _check_dtype_state(state: Any) -> None:
    """A number's state is its byte order and nothing else; NumPy itself does not look."""
    is_plain = isinstance(state, tuple) and len(state) == 8 and state[2:5] == (None,) * 3
    if not is_plain or state[:2] not in [(3, order) for order in "<>|="]:
        raise pickle.UnpicklingError("a kind of number with fields, or of an unknown byte order")


_Unpickler: Any = pickle._Unpickler


class ArrayUnpickler(_Unpickler):
    """The unpickler in Python, which knows arrays and plain containers and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that arrays are made with."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it would call {module[:80]}.{name[:80]}")
        return _KNOWN[module, name]

    def _set_one(self) -> None:
        _check_keys([self.stack[-2]])
        _Unpickler.load_setitem(self)

    def _set_many(self) -> None:
        _check_keys(self.stack[::2])
        _Unpickler.load_setitems(self)

    def _make_dict(self) -> None:
        _check_keys(self.stack[::2])
        _Unpickler.load_dict(self)

    def _build(self) -> None:
        made, state = self.stack[-2:]
        if isinstance(made, np.dtype):
            _check_dtype_state(state)
        elif not isinstance(made, np.ndarray):
            raise pickle.UnpicklingError(f"a state for a {type(made).__name__}")
        _Unpickler.load_build(self)

    def _bytes(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # no more than there are

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{x: f for x, f in _Unpickler.dispatch.items() if x not in _UNUSED},
        pickle.SETITEM[0]: _set_one,
        pickle.SETITEMS[0]: _set_many,
        pickle.DICT[0]: _make_dict,
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _bytes,
    }
