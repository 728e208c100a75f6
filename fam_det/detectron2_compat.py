"""What Detectron2 v0.6 (November 2021) lacks on today's libraries, put back in one place.

`import fam_det` arranges that `apply` runs just before Detectron2 is first imported. It only fills
gaps:

- `PIL.Image.LINEAR`, gone since Pillow 10, and `numpy.bool`, `numpy.int` and `numpy.float`, gone
  since NumPy 1.24, come back with the meaning they had;
- `pkg_resources`, gone from current setuptools, is stood in for when nothing on the path provides
  it (the model zoo imports it, in v0.6 and in the main branch);
- `detectron2._C`, the compiled extension, is stood in for when it is not built and this Detectron2
  cannot be imported without it. Its operators then raise an error that names them, and
  COCOEvaluator uses pycocotools' own COCOeval. The official main branch gets by without its
  extension, so there this never happens;
- two of PyTorch's warnings about lines of Detectron2 are hidden: its users cannot change those.

This file imports nothing of `fam_det`: tools/install_detectron2.py copies it into the wheel it
builds, whose `detectron2/__init__.py` applies it first, so that this Detectron2 works in a process
that never imports `fam_det`.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FAST_EVALUATION = "detectron2.evaluation.fast_eval_api"
WARNINGS = (
    (FutureWarning, "`torch.jit.script` is deprecated"),  # when box_regression is imported
    (UserWarning, "torch.meshgrid: in an upcoming release"),  # in the first training step
)


class _ApplyBeforeDetectron2(MetaPathFinder):
    """First on `sys.meta_path` until Detectron2 is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds nothing; applies the compatibility patches and leaves at `import detectron2`."""
        if fullname == "detectron2":
            sys.meta_path.remove(self)
            apply()
        return None


def apply_before_detectron2() -> None:
    """Calls `apply` when Detectron2 is first imported, and at once if that has happened."""
    if sys.modules.get("detectron2") is not None:
        apply()
    else:
        sys.meta_path.insert(0, _ApplyBeforeDetectron2())


def apply() -> None:
    """Fill the gaps of this environment; does nothing where nothing is missing, or again."""
    import numpy as np
    from PIL import Image

    _restore(Image, "LINEAR", Image.Resampling.BILINEAR)
    for builtin in (bool, int, float):
        _restore(np, builtin.__name__, builtin)
    for category, message in WARNINGS:
        warnings.filterwarnings("ignore", message, category)
    # By name, not isinstance: the wheel's copy of this file may be in the same process.
    if not any(type(finder).__name__ == _LastResortFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_LastResortFinder())


def _restore(module: ModuleType, name: str, value: object) -> None:
    """Set `module.name` unless it is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a release that still has the name may deprecate it
        if not hasattr(module, name):
            setattr(module, name, value)


class _LastResortFinder(MetaPathFinder):
    """Last on `sys.meta_path`, so asked only for what nothing else on the path provides."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Offer a stand-in for `pkg_resources` or `detectron2._C`."""
        if fullname == "pkg_resources":
            return ModuleSpec(fullname, _StandInLoader(_fill_pkg_resources))
        if fullname == "detectron2._C" and not _has_fallbacks(path or ()):
            return ModuleSpec(fullname, _StandInLoader(_fill_extension))
        return None


class _StandInLoader(Loader):
    """Runs a function on the empty module, where another loader would run a file."""

    def __init__(self, fill: Callable[[ModuleType], None]) -> None:
        self._fill = fill

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module that the import system made."""
        self._fill(module)


def _has_fallbacks(detectron2_path: Sequence[str]) -> bool:
    """Whether this Detectron2 has its own replacements for operators that are not built.

    Later revisions have them in the file looked for here; all of them call themselves 0.6.
    """
    return any(Path(entry, "utils", "develop.py").is_file() for entry in detectron2_path)


def _fill_pkg_resources(module: ModuleType) -> None:
    """Give a stand-in for `pkg_resources` the two functions that Detectron2 projects call."""

    def resource_filename(package: str, resource: str) -> str:
        """Path of a file in a package's folder."""
        return str(Path(importlib.import_module(package).__path__[0], resource))

    def resource_exists(package: str, resource: str) -> bool:
        """Whether that file exists."""
        return Path(resource_filename(package, resource)).exists()

    module.__doc__ = "Stand-in for setuptools' former pkg_resources."
    vars(module).update(resource_filename=resource_filename, resource_exists=resource_exists)


def _fill_extension(module: ModuleType) -> None:
    """Make a `detectron2._C` that says what is missing, and evaluate with pycocotools instead."""

    def missing(name: str) -> Any:
        raise AttributeError(
            f"detectron2._C.{name} is missing: it is compiled, and this Detectron2 was installed "
            "without its compiled extension. The official main branch built from source has it."
        )

    module.__doc__ = "Stand-in for Detectron2's compiled extension."
    vars(module).update(
        __getattr__=missing,
        # Printed by detectron2.utils.collect_env at the start of every training run.
        get_compiler_version=lambda: "none, detectron2._C is not built",
        get_cuda_version=lambda: "none, detectron2._C is not built",
        has_cuda=lambda: False,
    )
    # v0.6's COCOEvaluator takes its class from this module alone, which evaluates with `_C`.
    evaluation = ModuleType(FAST_EVALUATION, "Stand-in: COCOeval_opt is pycocotools' COCOeval.")
    vars(evaluation).update(__getattr__=_pycocotools_evaluation)
    sys.modules.setdefault(FAST_EVALUATION, evaluation)


def _pycocotools_evaluation(name: str) -> Any:
    """The stand-in evaluation module's only attribute, imported when first asked for."""
    if name != "COCOeval_opt":
        raise AttributeError(f"module {FAST_EVALUATION!r} has no attribute {name!r}")
    from pycocotools.cocoeval import COCOeval

    return COCOeval
