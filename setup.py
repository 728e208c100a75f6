"""Packaging of fam-det; the exact versions it is tested with are in requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "fam_det/__init__.py").read_text())
assert VERSION is not None, "fam_det/__init__.py has no __version__ line"

setup(
    name="fam-det",
    version=VERSION[1],
    description="Distil Detectron2 detectors with frequency attention (FAM-KD)",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # With the root explicit, an editable install is a path entry: a new package needs no reinstall.
    package_dir={"": "."},
    packages=find_packages(include=["fam_det", "fam_det.*", "classification", "classification.*"]),
    package_data={
        "fam_det": ["py.typed", "analysis/*.css", "analysis/*.csv"],
        "classification": ["py.typed"],
    },
    python_requires=">=3.10",
    # Detectron2 is not among them: the package index has no release of it that pip can install
    # beside a current PyTorch. Build the official main branch from source, or run
    # tools/install_detectron2.py.
    # No version with a known hole in what reads files: tests/test_package.py.
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.23",
        "Pillow>=11.3",
        "opencv-python>=4.8.1.78",
        "pycocotools>=2.0.7",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        # What Detectron2 itself needs to be imported.
        "cloudpickle>=2.2",
        "hydra-core>=1.3",
        "matplotlib>=3.7",
        "omegaconf>=2.3",
        "packaging>=23.0",
        "scipy>=1.9",
        "tabulate>=0.9",
        "tensorboard>=2.13",
        "termcolor>=2.3",
        "tqdm>=4.66.3",
        "yacs>=0.1.8",
    ],
    extras_require={
        "demo": ["mlxtend>=0.23"],
        # COCO evaluation in C++ where Detectron2's own is not built.
        "fast-eval": ["faster-coco-eval>=1.6"],
        # Losses of the methods that FAM-KD is compared with; needs torch>=2.12.
        "peers": ["torchdistill>=1.1.5"],
        # Networks for ImageNet, such as MobileNetV1.
        "timm": ["timm>=1.0.31"],
        # tools/deploy.py --format onnx
        "deploy": ["onnx>=1.17", "onnxruntime>=1.18"],
        "dev": [
            "hypothesis>=6.100",
            "import-linter>=2.3",
            "mypy>=1.13",
            "pre-commit>=3.8",
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
        ],
    },
)
