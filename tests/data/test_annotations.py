"""COCO annotation files with mistakes, as they come."""

import copy
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fam_det.data.annotations import check_annotations


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made: Path = tmp_path_factory.mktemp("images")
    (made / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (made / name).touch()
    return str(made)


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 30, "height": 20},
            {"id": 2, "file_name": "sub/b.png", "width": 30, "height": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [1.5, 2, 28.5, 18]},
        ],
        "categories": [{"id": 7, "name": "cell"}],
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """The content with another value at a path such as "images.0.width"."""
    made: Any = content()
    *parents, last = [int(x) if x.isdigit() else x for x in path.split(".")]
    node = made
    for part in parents:
        node = node[part]
    node[last] = value
    return made


def test_right_files_pass_without_a_word(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    check_annotations("cells", content(), folder, 0)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("images.1.id", 1, "two entries have the image id 1"),
        ("annotations.1.id", 1, "two entries have the annotation id 1"),
        ("images.0.width", 0, "image 1: width: got 0, expected 1 pixel or more"),
        ("images.0.height", math.nan, "image 1: height: got nan"),
        ("images.0.file_name", "../secret.png", "'../secret.png' leaves the image folder"),
        ("images.0.file_name", "/etc/passwd", "'/etc/passwd' leaves the image folder"),
        ("images.0.file_name", "sub/../../x.png", "leaves the image folder"),
        ("images.0.file_name", 7, "file_name: got 7, expected a path"),
        ("images.0.file_name", "c.png", "1 of 2 images are not in .*, such as 'c.png'"),
        ("annotations.0.image_id", 9, "annotation 1: image_id: got 9, which the file lacks"),
        ("annotations.0.category_id", 1, "annotation 1: category_id: got 1, which the file"),
        ("annotations.0.bbox", [0, 0, math.nan, 5], r"bbox: got \[0, 0, nan, 5\], expected"),
        ("annotations.0.bbox", [0, 0, 5], r"bbox: got \[0, 0, 5\], expected"),
        ("annotations.0.bbox", "0 0 5 5", "bbox: got '0 0 5 5'"),
        ("annotations.0", None, "not in COCO's format"),
        ("images", 3, "not in COCO's format"),
    ],
)
def test_mistakes_are_named(folder: str, path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"DATASETS.COCO: cells: .*{message}"):
        check_annotations("cells", changed(path, value), folder, 0)


@pytest.mark.parametrize("box", [[0, 0, 0, 5], [0, 0, 5, -1], [25, 0, 10, 5], [-5, 0, 6, 5]])
def test_empty_boxes_and_those_out_of_the_image_are_counted(
    folder: str, box: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_annotations("cells", changed("annotations.0.bbox", box), folder, 0)
    assert (
        f"1 of 2 boxes are empty or reach out of their image, such as: annotation 1: bbox {box}"
        in (caplog.text)
    )


def test_some_images_may_be_missing(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_annotations("cells", changed("images.0.file_name", "c.png"), folder, 1)
    assert "1 of 2 images are missing, such as c.png" in caplog.text


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
paths = st.sampled_from(
    [
        *("images", "annotations", "categories", "images.0", "annotations.1", "categories.0"),
        *(f"images.0.{key}" for key in ("id", "file_name", "width", "height")),
        *(f"annotations.1.{key}" for key in ("id", "image_id", "category_id", "bbox")),
        *(f"annotations.1.bbox.{i}" for i in range(4)),
    ]
)


def only_clean_errors(folder: str, path: str, value: Any) -> None:
    made = changed(path, value)
    before = copy.deepcopy(made)
    try:
        check_annotations("cells", made, folder, 0)
    except ValueError as error:
        assert "\n" not in str(error) or "\n" in json.dumps(value, default=str)
        assert str(error).startswith("DATASETS.COCO: cells: ")
    assert repr(made) == repr(before)


@given(path=paths, value=values)
@settings(max_examples=1000, deadline=None)
def test_anything_in_any_place_passes_or_is_named(folder: str, path: str, value: Any) -> None:
    only_clean_errors(folder, path, value)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@given(path=paths, value=values)
@settings(max_examples=50_000, deadline=None)
def test_anything_in_any_place_at_length(folder: str, path: str, value: Any) -> None:
    only_clean_errors(folder, path, value)
