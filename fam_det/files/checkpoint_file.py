"""Checkpoint files: tensors, arrays and plain containers come out of them, and nothing runs."""

import importlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

# What pickles of arrays name: NumPy 1 and 2, and Python 2, in which the old zoo was written.
_NUMPY = {
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}
UNREADABLE = (
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    UnicodeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows NumPy's arrays and plain containers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that arrays are made with."""
        if (module, name) not in _NUMPY:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        module = module.replace("numpy.core", "numpy._core")  # the name since NumPy 2
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:  # NumPy 1
            module = module.replace("numpy._core", "numpy.core")
            return getattr(importlib.import_module(module), name)


def read_pickle(file: str | Path) -> dict[str, Any]:
    """The content of a ``.pkl`` of Detectron2's model zoo.

    Raises:
        ValueError: a file that is damaged or would call anything; one line that names it.
    """
    try:
        with Path(file).open("rb") as stream:
            content = ArrayUnpickler(stream, encoding="latin1").load()
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    return _expect_dict(file, content)


def read_torch(file: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of PyTorch, on the CPU.

    Raises:
        ValueError: a file that is damaged or would call anything; one line that names it.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    return _expect_dict(file, content)


def is_whole(file: str | Path) -> bool:
    """Whether every part of a checkpoint of PyTorch has the checksum it was written with."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False


def _expect_dict(file: str | Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, expected a checkpoint")
    return content


def _unreadable(file: str | Path, error: BaseException) -> ValueError:
    path = Path(file)
    if not path.is_file():
        return ValueError(f"{file}: there is no such checkpoint")
    if path.stat().st_size == 0:
        return ValueError(f"{file}: is empty, expected a checkpoint")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    called = [line for line in lines if "GLOBAL" in line or "it would call" in line]
    if called:
        return ValueError(
            f"{file}: refused, holds more than weights ({called[0]}); save its state dict alone"
        )
    if lines and lines[0].startswith("Weights only load failed"):
        lines = ["neither a zip archive nor a pickle of weights"]  # advice to run it anyway
    return ValueError(
        f"{file}: damaged, or not a checkpoint ({lines[0] if lines else type(error).__name__})"
    )
