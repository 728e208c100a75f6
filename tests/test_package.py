"""What ``pip install .`` brings: both packages, typed, and nothing of the tests."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy to build in: setuptools leaves files behind."""
    copy = tmp_path / "source"
    for name in ("fam_det", "classification"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_build_has_both_packages_and_their_types(source: Path, kind: str) -> None:
    command = [sys.executable, "-c", BUILD, kind, str(source.parent)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    file = source.parent / done.stdout.split()[-1]
    if kind == "wheel":
        names = zipfile.ZipFile(file).namelist()
        zipfile.ZipFile(file).extractall(source.parent / "installed")
        code = "import fam_det.core, fam_det; print(fam_det.__file__)"
        found = subprocess.run(
            [sys.executable, "-c", code], cwd=source.parent / "installed", capture_output=True
        )
        assert found.stdout.decode().strip() == str(file.parent / "installed/fam_det/__init__.py")
    else:
        names = [name.partition("/")[2] for name in tarfile.open(file).getnames()]
    for package in ("fam_det", "classification"):
        files = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.*")}
        assert {name for name in files if not name.endswith(".pyc")} <= set(names)
    assert not any(name.startswith(("tests/", "tools/", "output/")) for name in names)


# The first releases without the known holes in what reads files or unpacks them.
FIXED = {
    "onnx": "1.17",  # CVE-2024-5187: a download that writes out of its folder
    "opencv-python": "4.8.1.78",  # CVE-2023-4863: WebP
    "Pillow": "11.3",  # CVE-2025-48379: DDS; CVE-2023-50447 and CVE-2023-4863 before
    "torch": "2.6",  # CVE-2025-32434: torch.load with weights_only ran code
    "tqdm": "4.66.3",  # CVE-2024-34062
}


def requirements() -> list[Requirement]:
    """The pins, and the lower bounds of setup.py."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines += re.findall(r'"([\w-]+>=[\w.]+)"', (ROOT / "setup.py").read_text())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", FIXED)
def test_no_version_with_a_known_hole_is_allowed(name: str) -> None:
    allowed = [
        Version(part.version)
        for requirement in requirements()
        if requirement.name == name
        for part in requirement.specifier
    ]
    assert len(allowed) >= 2 and min(allowed) >= Version(FIXED[name])
