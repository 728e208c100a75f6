"""Imports from ``detectron2.export``, also if that needs Caffe2, which PyTorch dropped in 2.4.

``detectron2/export/__init__.py`` of v0.6, and of the main branch for some time after it, imports
the Caffe2 tracer first. The functions imported here need no Caffe2. Import this
module before ``detectron2.utils.analysis``, which imports ``detectron2.export`` too.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

import fam_det.modeling  # noqa: F401  registers models and weights

PACKAGE = "detectron2.export"


def _stand_in() -> None:
    """Adds to ``sys.modules`` a package of its two modules that do without Caffe2."""
    for name in [x for x in sys.modules if x.startswith(PACKAGE)]:
        del sys.modules[name]  # left by the failed import
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.submodule_search_locations is not None
    package = ModuleType(PACKAGE, "Stand-in without Caffe2.")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules[PACKAGE] = package
    for name in ("flatten", "torchscript"):
        vars(package).update(vars(importlib.import_module(f"{PACKAGE}.{name}")))


try:
    importlib.import_module(PACKAGE)
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("caffe2", "onnx"):
        raise
    _stand_in()

from detectron2.export import TracingAdapter, scripting_with_instances  # noqa: E402

__all__ = ["TracingAdapter", "scripting_with_instances"]
