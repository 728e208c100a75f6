"""The readers of annotations, configs and checkpoints on values that hypothesis makes up."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fam_det.config import default_config
from fam_det.data.annotations import check_annotations, read_annotations
from fam_det.files.checkpoint_file import read_pickle, read_torch
from fam_det.files.checkpointer import SafeCheckpointer
from fam_det.files.config_file import merge_config
from tests.data.test_annotations import changed

from detectron2.config import CfgNode

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
TENSORS = st.sampled_from([torch.ones(2, 3), torch.zeros(2), torch.ones(1, 1), torch.tensor(3)])
ARRAYS = st.sampled_from([np.ones((2, 3), np.float32), np.zeros(2), np.arange(3), np.float64(1)])
NAMES = st.sampled_from(["model", "weight", "bias", "blobs", "__author__", "model_state", "x"])


def keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{key}.")


def is_one_line(error: ValueError) -> bool:
    return len(str(error).splitlines()) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated")


@given(key=st.sampled_from(sorted(keys(default_config()))) | st.text(max_size=9), value=VALUES)
@settings(max_examples=25, deadline=None)
def test_any_value_of_any_key(folder: Path, key: str, value: Any) -> None:
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    file = folder / "a.yaml"
    file.write_text(yaml.safe_dump(nested))
    try:
        merge_config(default_config(), file)
    except ValueError as error:
        assert is_one_line(error) and str(error).startswith(str(file))


@given(content=st.dictionaries(NAMES, st.dictionaries(NAMES, TENSORS | VALUES) | TENSORS | VALUES))
@settings(max_examples=25, deadline=None)
def test_any_content_of_a_checkpoint(folder: Path, content: Any) -> None:
    file = folder / "a.pth"
    torch.save(content, file)
    assert set(read_torch(file)) == set(content)
    load(file)


@given(
    content=st.dictionaries(NAMES, st.dictionaries(NAMES, ARRAYS | VALUES) | ARRAYS | VALUES),
    protocol=st.integers(0, 5),
)
@settings(max_examples=25, deadline=None)
def test_any_content_of_a_pickle(folder: Path, content: Any, protocol: int) -> None:
    file = folder / "a.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    assert set(read_pickle(file)) == set(content)
    load(file)


def load(file: Path) -> None:
    try:
        SafeCheckpointer(nn.Linear(3, 2)).load(str(file))
    except ValueError as error:
        assert is_one_line(error) and str(error).startswith(str(file))


PATHS = st.sampled_from(
    [
        *("images", "annotations", "categories", "images.0", "annotations.1", "categories.0"),
        *(f"images.0.{key}" for key in ("id", "file_name", "width", "height")),
        *(f"annotations.1.{key}" for key in ("id", "image_id", "category_id", "bbox")),
        *(f"annotations.1.{key}" for key in ("segmentation", "keypoints", "iscrowd")),
        *(f"annotations.1.bbox.{i}" for i in range(4)),
    ]
)


def check_annotation_file(folder: Path, path: str, value: Any) -> None:
    for name in ("a.png", "sub/b.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    file = folder / "a.json"
    file.write_text(json.dumps(changed(path, value)))
    try:
        check_annotations("cells", read_annotations("cells", str(file)), str(folder))
    except ValueError as error:
        assert is_one_line(error) and len(str(error)) < 2000
        assert str(error).startswith("cells: ")


@given(path=PATHS, value=VALUES)
@settings(max_examples=100, deadline=None)
def test_anything_in_any_place_passes_or_is_named(folder: Path, path: str, value: Any) -> None:
    check_annotation_file(folder, path, value)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(path=PATHS, value=VALUES)
@settings(max_examples=50_000, deadline=None)
def test_anything_in_any_place_at_length(folder: Path, path: str, value: Any) -> None:
    check_annotation_file(folder, path, value)
