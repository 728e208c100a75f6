"""PyTorch, torchvision, Detectron2, and this project on top of them."""

import importlib
import importlib.util
import os
from pathlib import Path

from fam_det.doctor.fact import GAP, NOTE, OK, Fact, of_version
from fam_det.doctor.libraries import (
    TORCH,
    TORCHVISION,
    installed_version,
    pip_install,
)
from fam_det.doctor.machine import cores

PURE_PYTHON = "python tools/install_detectron2.py"
FROM_SOURCE = "build Detectron2's main branch from source"
REBUILD = f"pip uninstall detectron2, then {PURE_PYTHON}"


def check_torch() -> list[Fact]:
    """PyTorch, and what its threads run on."""
    import torch

    words = f", for CUDA {torch.version.cuda}" if torch.version.cuda else ", for the CPU alone"
    threads = torch.get_num_threads()
    mkl = "with MKL" if torch.backends.mkl.is_available() else "without MKL"
    found = f"{threads} of PyTorch on {cores()} cores, {mkl}"
    advice = f"export OMP_NUM_THREADS={cores()}" if threads > cores() else ""
    return [
        of_version("PyTorch", torch.__version__, TORCH.least, pip_install(TORCH), words),
        Fact(NOTE if advice else OK, "threads", found, advice),
    ]


def check_gpus() -> list[Fact]:
    """One fact a GPU that computes; where there is none, why; nothing without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if not torch.cuda.is_available():
        return [_no_gpu(built_for_cuda=torch.version.cuda is not None)]
    facts = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        try:
            torch.ones(2, device=f"cuda:{index}").sum().item()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            advice = f"install a PyTorch for this GPU, or add MODEL.DEVICE cpu ({reason})"
            facts.append(Fact(GAP, f"GPU {index}", f"{found}, cannot compute", advice))
        else:
            facts.append(Fact(OK, f"GPU {index}", found))
    return facts


def _no_gpu(built_for_cuda: bool) -> Fact:
    """A GPU that PyTorch cannot use is another matter than none."""
    advice = "add MODEL.DEVICE cpu to commands"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return Fact(NOTE, "GPU", "hidden by CUDA_VISIBLE_DEVICES", advice)
    if not Path("/dev/nvidia0").exists():
        return Fact(NOTE, "GPU", "none, the CPU alone", advice)
    cure = "update its driver" if built_for_cuda else "install a PyTorch for CUDA"
    return Fact(NOTE, "GPU", "one is here, but PyTorch cannot use it", f"{cure}, or {advice}")


def check_torchvision() -> list[Fact]:
    """Its operators are compiled for one version of PyTorch: one of them is run."""
    installed_folder("torchvision")
    import torch
    import torchvision
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    assert kept.tolist() == [0], kept
    name, least, advice = "torchvision", TORCHVISION.least, pip_install(TORCHVISION)
    words = ", its operators run with this PyTorch"
    return [of_version(name, torchvision.__version__, least, advice, words)]


def check_detectron2() -> list[Fact]:
    """Its version, where it comes from, and whether its C++ is built."""
    folder = installed_folder("detectron2")
    from fam_det import detectron2_compat

    detectron2_compat.apply()
    importlib.import_module("detectron2")
    version = installed_version("detectron2", "detectron2")
    fact = of_version("Detectron2", version, "0.6", PURE_PYTHON, f", {_kind(folder)}, in {folder}")
    copy = folder / "_compat.py"
    if copy.is_file() and copy.read_bytes() != Path(detectron2_compat.__file__).read_bytes():
        fact = fact._replace(
            state=NOTE, advice=f"its detectron2/_compat.py is of another version: {REBUILD}"
        )
    return [fact, _extension(folder)]


def installed_folder(package: str) -> Path:
    """Where a package lies; nothing of it is imported.

    Raises:
        ModuleNotFoundError: nowhere, or it is a mere folder of that name.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name=package)
    return Path(spec.origin).parent


def _kind(folder: Path) -> str:
    """Which of the Detectron2s that all call themselves 0.6."""
    if (folder / "_compat.py").is_file():
        return "the pure-Python one of tools/install_detectron2.py"
    if (folder / "utils" / "develop.py").is_file():
        return "of the main branch"
    return "the release"


def _extension(folder: Path) -> Fact:
    """Whether ``detectron2._C`` is built, and fits this PyTorch."""
    name = "detectron2._C"
    if not [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        found = "not compiled; pure Python trains, and COCO evaluation runs in faster-coco-eval"
        return Fact(NOTE, name, found, f"only for deformable and rotated operators: {FROM_SOURCE}")
    try:
        importlib.import_module("torch")
        importlib.import_module(name)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        advice = f"{FROM_SOURCE} again, with this PyTorch ({reason})"
        return Fact(GAP, name, "compiled for another PyTorch", advice)
    return Fact(OK, name, "compiled")


def check_project() -> list[Fact]:
    """Import what tools/train_net.py imports, most of Detectron2 with it."""
    import fam_det

    importlib.import_module("fam_det.training.detection")
    folder = Path(fam_det.__file__).parent
    return [Fact(OK, "fam_det", f"{fam_det.__version__} in {folder}, ready to train")]
