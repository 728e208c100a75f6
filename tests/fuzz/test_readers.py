"""The readers of annotations, configs and checkpoints on files that are nearly right.

`make test` reads a few hundred, `make test-slow` 111,000.
"""

import io
import json
import logging
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fam_det.config import default_config
from fam_det.data.annotations import check_annotations, read_annotations
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.files.config_file import merge_config
from tests.data.test_annotations import content
from tests.fuzz.mutations import only_clean_errors

MEMORY = 700_000  # kilobytes that a test may add to the process, imports included


def often(few: int, many: int) -> Any:
    slow = pytest.param(many, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("count", [few, slow])


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No input makes the process grow; nobody wants to read its warnings."""
    logging.disable(logging.CRITICAL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    logging.disable(logging.NOTSET)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


@often(100, 60_000)
def test_annotation_files(count: int, tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    file = tmp_path / "all.json"
    rich = content()
    masks = [[[1, 1, 9, 1, 9, 9]], {"size": [20, 30], "counts": [590, 10]}]
    for annotation, mask in zip(rich["annotations"], masks, strict=True):
        annotation |= {"segmentation": mask, "keypoints": [1, 2, 2] * 3, "iscrowd": 0}
    packed = content()
    packed["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": "d0>0O1f0"}

    def read(data: bytes) -> None:
        file.write_bytes(data)
        check_annotations("cells", read_annotations("cells", str(file)), str(tmp_path))

    valid = [json.dumps(made).encode() for made in (content(), rich, packed)]
    refused = only_clean_errors(read, valid, count, seed=count)
    assert 0 < refused < count


CONFIGS = [
    b"SEED: 3\nMODEL:\n  DEVICE: cpu\n  TEACHER: {CONFIG: a.yaml, OPTS: [SEED, 1]}\n",
    b"_BASE_: base.yaml\nSOLVER: {STEPS: [1, 2], BASE_LR: 1.0e-3}\nOUTPUT_DIR: 'out'\n",
    b"INPUT: {MIN_SIZE_TRAIN: [64, 96]}\nDATASETS:\n  TRAIN: [a]\n  COCO: [[a, b, c]]\n",
    b"a: &x [1, 2]\nb: [*x, *x]\nMODEL: {WEIGHTS: !!str 5}\n",
]


@often(60, 12_000)
def test_config_files(count: int, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SEED: 1\n")
    file = tmp_path / "a.yaml"
    cfg = default_config()

    def read(data: bytes) -> None:
        file.write_bytes(data)
        merge_config(cfg.clone(), file)

    assert 0 < only_clean_errors(read, CONFIGS, count, seed=count) < count


def of_torch(zipped: bool) -> bytes:
    stream = io.BytesIO()
    state = {"model": nn.Linear(3, 2).state_dict(), "iteration": 3, "trainer": {"a": [1, (2, 3)]}}
    torch.save(state, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def of_zoo(protocol: int) -> bytes:
    weights = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2), "x": np.arange(3)}
    return pickle.dumps({"model": weights, "__author__": "x"}, protocol)


KINDS = {
    "zip": ("a.pth", [of_torch(True)]),
    "before the zip": ("a.pth", [of_torch(False)]),
    "zoo": ("a.pkl", [of_zoo(protocol) for protocol in range(6)]),
}


@pytest.mark.parametrize("kind", KINDS)
@often(100, 13_000)
def test_checkpoints(kind: str, count: int, tmp_path: Path) -> None:
    name, valid = KINDS[kind]
    file = tmp_path / name
    model = nn.Linear(3, 2)

    def read(data: bytes) -> None:
        file.write_bytes(data)
        SafeCheckpointer(model).load(str(file))

    assert 0 < only_clean_errors(read, valid, count, seed=count) <= count
