"""Weights: what the caches hold, and whether the hosts they come from answer."""

import os
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from fam_det.doctor.fact import GAP, NOTE, OK, Fact, in_gigabytes

SUFFIXES = {".pkl", ".pth"}
SECONDS = 5.0  # for a host to answer
SHOWN = 3  # files named in a line

# Small and permanent files of Detectron2's model zoo and of torchvision.
ZOO = "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
TORCHVISION = "https://download.pytorch.org/models/resnet18-f37072fd.pth"


def detectron2_cache() -> Path:
    """Where iopath keeps what Detectron2 downloads, and this package its converted weights."""
    return Path(os.environ.get("FVCORE_CACHE", "~/.torch/iopath_cache")).expanduser()


def torch_cache() -> Path:
    """Where torchvision keeps its weights: the same rules as ``torch.hub.get_dir``."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", str(Path(base) / "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"


def check_caches() -> list[Fact]:
    """One fact a cache."""
    return [
        cache_fact("weights, model zoo", detectron2_cache()),
        cache_fact("weights, torchvision", torch_cache()),
    ]


def cache_fact(name: str, folder: Path) -> Fact:
    """How many weights lie in a cache; an empty file there would be loaded, and fail."""
    files = sorted(item for item in folder.rglob("*") if item.suffix in SUFFIXES)
    if empty := [str(item) for item in files if not item.stat().st_size]:
        return Fact(GAP, name, f"empty: {', '.join(empty)}", f"rm {' '.join(empty)}")
    if not files:
        advice = "no need where its host answers: what a run needs is downloaded once"
        return Fact(NOTE, name, f"none yet in {folder}", advice)
    size = in_gigabytes(sum(item.stat().st_size for item in files))
    names = [str(item.relative_to(folder)) for item in files[:SHOWN]]
    names += ["..."] if len(files) > SHOWN else []
    return Fact(OK, name, f"{len(files)} in {folder}, {size}: {', '.join(names)}")


def check_zoo() -> list[Fact]:
    """Teachers of Detectron2's model zoo."""
    path = detectron2_cache() / "detectron2" / "..."
    advice = f"copy the files to {path}, as the URL goes on, or set MODEL.TEACHER.WEIGHTS to a file"
    return [host_fact(ZOO, advice)]


def check_torchvision_host() -> list[Fact]:
    """ImageNet weights of the students."""
    advice = f"copy the files to {torch_cache()}, or set MODEL.WEIGHTS to a file"
    return [host_fact(TORCHVISION, advice)]


def host_fact(url: str, advice: str) -> Fact:
    """Ask for the head of a file."""
    host = url.split("/")[2]
    try:
        with urlopen(Request(url, method="HEAD"), timeout=SECONDS) as answer:
            return Fact(OK, host, f"answers ({answer.status})")
    except HTTPError as error:
        return Fact(NOTE, host, f"refuses ({error.code} {error.reason})", advice)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        return Fact(NOTE, host, f"does not answer ({reason})", advice)
