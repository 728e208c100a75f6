"""What ``pip install .`` brings: both packages, typed, and nothing of the tests."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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
        modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py")}
        assert modules | {f"{package}/py.typed"} <= set(names)
    assert not any(name.startswith(("tests/", "tools/", "output/")) for name in names)
