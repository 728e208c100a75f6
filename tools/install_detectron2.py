"""Installs Detectron2 for the Python that runs this, unless any version is installed.

It builds v0.6 without its compiled extension. The source is the archive `pb1-detectron2` of the
package index: its Python files are those of the official tag, its C++ files are missing, so pip
alone cannot install it. With a compiler, build the official main branch from source instead.

The wheel contains fam_det/detectron2_compat.py as `detectron2/_compat.py`, which its
`detectron2/__init__.py` applies first. So it works with today's libraries also in processes that
never import fam_det. Needs torch and setuptools; `make` installs requirements.txt first.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NoReturn

ARCHIVE = "pb1-detectron2"
VERSION = "0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"

# pip 26.3 refuses this archive, as an optional extra of it, unused here, names a URL. So an earlier
# release, in a temporary folder, downloads it.
PIP_VERSION = "26.2.1"
PIP_SHA256 = "71138adf1f4ca900cdb7d289c21b7494329f2332b6d85f0e1c42108c0384ed3e"

COMPAT = Path(__file__).resolve().parent.parent / "fam_det" / "detectron2_compat.py"
APPLY_COMPAT = "from ._compat import apply as _apply\n\n_apply()\n\n"

# Projects that Detectron2 installs as part of itself, by their folder in the archive.
PROJECTS = {"point_rend": "PointRend", "deeplab": "DeepLab", "panoptic_deeplab": "Panoptic-DeepLab"}
SETUP = f"""
from setuptools import find_packages, setup

setup(
    name="detectron2",
    version="{VERSION}",
    description="Detectron2 {VERSION} without its compiled extension",
    url="https://github.com/facebookresearch/detectron2",
    packages=find_packages(include=["detectron2", "detectron2.*"]),
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
)
"""

EXAMPLES = """
examples:
  tools/install_detectron2.py
  tools/install_detectron2.py --wheel-dir output/wheels
"""


def fail(reason: str) -> NoReturn:
    """Stops with one line."""
    raise SystemExit(f"install_detectron2: {reason}")


def run_pip(*arguments: str, path: Path | None = None) -> None:
    """Runs pip with this Python; `path` is a folder with another pip to use."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        reason = next((line for line in lines if line.lower().startswith("error:")), lines[-1])
        fail(f"pip {arguments[0]} failed: {reason}")


def download(folder: Path) -> Path:
    """Downloads the source archive into `folder` with pip, which checks its hash."""
    requirements = folder / "requirements.txt"
    hashed = ("--no-deps", "--require-hashes", "--requirement", str(requirements))
    requirements.write_text(f"pip=={PIP_VERSION} --hash=sha256:{PIP_SHA256}\n")
    run_pip("install", *hashed, "--target", str(folder / "pip"))
    requirements.write_text(f"{ARCHIVE}=={VERSION} --hash=sha256:{SHA256}\n")
    source = ("--no-binary", ":all:", "--no-build-isolation")
    run_pip("download", *hashed, *source, "--dest", str(folder), path=folder / "pip")
    return folder / f"{ARCHIVE}-{VERSION}.tar.gz"


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks the archive as a pure-Python project named `detectron2`, and returns its path."""
    if not hasattr(tarfile, "data_filter"):
        fail("needs Python 3.10.12, 3.11.4 or newer to unpack an archive safely")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    project = folder / f"{ARCHIVE}-{VERSION}"
    package = project / "detectron2"
    for name, directory in PROJECTS.items():
        shutil.move(project / "projects" / directory / name, package / "projects" / name)
    (project / "setup.py").write_text(SETUP)
    shutil.copyfile(COMPAT, package / "_compat.py")
    init = package / "__init__.py"
    init.write_text(APPLY_COMPAT + init.read_text())
    return project


def installed() -> str | None:
    """Returns version and folder of the Detectron2 that this Python would import, or None."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return None
    try:
        version = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        version = "(version unknown)"
    return f"detectron2 {version} in {', '.join(spec.submodule_search_locations or ())}"


def main() -> None:
    """Installs Detectron2, or only builds its wheel."""
    parser = argparse.ArgumentParser(
        description="Install Detectron2 unless it is installed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "only build the pure-Python wheel, into this folder"
    parser.add_argument("--wheel-dir", type=Path, help=text)
    wheel_dir: Path | None = parser.parse_args().wheel_dir
    if wheel_dir is None and (existing := installed()):
        print(f"Using the installed {existing}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        project = unpack(download(folder), folder)
        arguments = ("--no-deps", "--no-build-isolation", "--wheel-dir", temporary, str(project))
        run_pip("wheel", *arguments)
        wheel = next(folder.glob(f"detectron2-{VERSION}-*.whl"))
        if wheel_dir is None:
            run_pip("install", "--no-deps", str(wheel))
        else:
            wheel_dir.mkdir(parents=True, exist_ok=True)
            wheel = Path(shutil.copy(wheel, wheel_dir))
    importlib.invalidate_caches()
    print(f"Wrote {wheel}" if wheel_dir else f"Installed {installed()}, pure Python")


if __name__ == "__main__":
    main()
