"""COCO annotation files with mistakes, as they come."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest

from fam_det.data.annotations import check_annotations, read_annotations


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
    check_annotations("cells", content(), folder)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("images.1.id", 1, "image 1: this id is there twice"),
        ("images.0.id", "x", "image 'x': id: got 'x', expected a whole number"),
        ("images.0.id", 2**64, "id: got 18446744073709551616, expected"),
        ("annotations.1.id", 1, "annotation 1: this id is there twice"),
        ("annotations.1.id", [], r"annotation \[\]: id: got \[\], expected a whole number"),
        ("images.0.width", 0, "image 1: width: got 0, expected 1 pixel or more"),
        ("images.0.width", 30.5, "image 1: width: got 30.5, expected 1 pixel or more"),
        ("images.0.height", math.nan, "image 1: height: got nan"),
        ("images.0.height", 10**400, "image 1: height: got 1000"),
        ("images.0.height", 3_000_000, "got 30 by 3000000, expected at most 89,478,485 pixels"),
        ("images.0.file_name", "../secret.png", "'../secret.png' leaves the image folder"),
        ("images.0.file_name", "/etc/passwd", "'/etc/passwd' leaves the image folder"),
        ("images.0.file_name", "sub/../../x.png", "leaves the image folder"),
        ("images.0.file_name", "sub", "1 of 2 images are not in .*, such as 'sub'"),
        ("images.0.file_name", 7, "file_name: got 7, expected a path"),
        ("images.0.file_name", "a\nb.png", r"file_name: got 'a\\nb.png', expected a path"),
        ("images.0.file_name", "c.png", "1 of 2 images are not in .*, such as 'c.png'"),
        ("images.0.file_name", "/".join(9000 * "x")[1:], "File name too long|leaves"),
        ("annotations.0.image_id", 9, "annotation 1: image_id: got 9, which the file lacks"),
        ("annotations.0.image_id", {}, "annotation 1: image_id: got {}, which the file lacks"),
        ("annotations.0.category_id", 1, "annotation 1: category_id: got 1, which the file"),
        ("annotations.0.bbox", [0, 0, math.nan, 5], r"bbox: got \[0, 0, nan, 5\], expected"),
        ("annotations.0.bbox", [0, 0, math.inf, 5], r"bbox: got \[0, 0, inf, 5\], expected"),
        ("annotations.0.bbox", [0, 0, 10**400, 5], r"bbox: got \[0, 0, 1000.*, 5\], expected"),
        ("annotations.0.bbox", [0, 0, 5], r"bbox: got \[0, 0, 5\], expected"),
        ("annotations.0.bbox", "0 0 5 5", "bbox: got '0 0 5 5'"),
        ("annotations.0.iscrowd", "no", "iscrowd: got 'no', expected 0 or 1"),
        ("annotations.0.segmentation", [[1, 2, "x"]], "annotation 1: segmentation: got"),
        ("annotations.0.keypoints", [1, 2], r"annotation 1: keypoints: got \[1, 2\]"),
        ("annotations.0.segmentation", [1, 2, 9, 2, 9, 9], "expected a list a polygon"),
        ("annotations.0.image_id", "1", "annotation 1: image_id: got '1', text, expected a number"),
        ("annotations.0.id", None, "id: got None, expected a whole number below 2.63"),
        ("annotations.0.iscrowd", None, "iscrowd: got None, expected 0 or 1"),
        ("annotations.0.bbox", ["0", "0", "5", "5"], "bbox: got .*, expected .x, y, width"),
        ("annotations.0.bbox", [0, 0, 5, 5, 30.0], "bbox: got .*, expected .x, y, width"),
        ("annotations.0", None, "annotations: None has no 'id'"),
        ("categories.0", {"id": 7}, "categories: {'id': 7} has no 'name'"),
        ("categories.0.name", 3, "category 7: name: got 3, expected text"),
        ("categories.0.name", "", "category 7: name: got '', expected text"),
        ("images.0.file_name", "A.PNG", "such as 'A.PNG'; 'a.png' is there, set file_name to that"),
        ("images.0.file_name", "C:\\x\\a.jpg", "a.jpg'; 'a.png' is there, set file_name to that"),
        ("images.0.file_name", "b.png", r"such as 'b.png'; give the folder"),
        ("images.0.file_name", "%2e%2e/%2e%2e/etc/passwd", "leaves the image folder"),
        (
            "images.0.file_name",
            "/elsewhere/a.png",
            "leaves the image folder; 'a.png' is there, set",
        ),
        (
            "images.0.file_name",
            "https://x.org/a.png?y=z",
            "'a.png' is there, set file_name to that",
        ),
        ("annotations.0", {"image_id": 1, "segments_info": []}, "this is COCO's panoptic format"),
        ("categories", [], "has no categories"),
    ],
)
def test_mistakes_are_named(folder: str, path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^cells: .*({message})"):
        check_annotations("cells", changed(path, value), folder)


BOXES: list[Any] = [[0, 0, 0, 5], [0, 0, 5, 0], [25, 0, 10, 5], [-5, 0, 6, 5]]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *(
            ("bbox", box, f"a box that is empty or .*, such as: annotation 1: bbox {box}")
            for box in BOXES
        ),
        ("segmentation", [[1, 2, 3, 4]], "a segmentation without a polygon of .*: annotation 1$"),
    ],
)
def test_objects_that_cannot_be_used_as_they_are_are_counted(
    folder: str, field: str, value: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = changed(f"annotations.0.{field}", value)
    text = "cells: 1 of 2 objects have " + message.replace("[", r"\[").replace("]", r"\]")
    with caplog.at_level(logging.WARNING):
        check_annotations("cells", made, folder)
    (line,) = caplog.messages
    assert re.match(text, line)
    with pytest.raises(ValueError, match=text):
        check_annotations("cells", made, folder, strict=True)


def test_some_images_may_be_missing(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_annotations("cells", changed("images.0.file_name", "c.png"), folder, max_missing=9)
    assert "1 of 2 images are missing, such as 'c.png'" in caplog.text
    most = changed("images.0.file_name", "c.png")
    most["images"][1]["file_name"] = "d.png"
    with pytest.raises(ValueError, match="2 of 2 images are not in .*, such as 'c.png'"):
        check_annotations("cells", most, folder, max_missing=9)


def test_links_out_of_the_folder_are_refused_unless_they_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "b.png").touch()
    (tmp_path / "images" / "a.png").symlink_to("sub/b.png")  # stays inside
    (tmp_path / "images" / "sub" / "b.png").touch()
    (tmp_path / "linked").symlink_to("images")
    folder = str(tmp_path / "linked")  # the folder itself may be a link
    check_annotations("cells", content(), folder)
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "secret" / "b.png")
    with pytest.raises(ValueError, match="1 of 2 images are links that leave .*'a.png'.*FOLLOW_L"):
        check_annotations("cells", content(), folder)
    check_annotations("cells", content(), folder, follow_links=True)
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images" / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="1 of 2 images are links that leave .*'out/b.png'"):
        check_annotations("cells", changed("images.0.file_name", "out/b.png"), folder)


FILES = {
    "": "is empty",
    "<html>": "is not JSON, it starts with '<html>'",
    '{"id": 1}\n{"id": 2}': "is more than one JSON value, as JSON lines are (Extra data: line 2",
    "\x1f\udc8b\x08": "is compressed; unpack it",  # gzip
    '{"images": [': "is not JSON, is it truncated",
    "[]": "is a list, as results of an evaluation and other formats are; expected COCO's format",
    "null": "images: got nothing, expected a list",
    '{"images": {}}': "images: got dict, expected a list",
    '{"images": [], "annotations": 3, "categories": []}': "annotations: got int, expected a list",
    "[" * 100_000: "is nested too deeply",
    '{"a":' * 100_000: "is nested too deeply",
    "9" * 5000: "is not JSON, it starts with '9999",
    "\udcff": "is not UTF-8 (invalid start byte); save it as UTF-8",  # the byte ff
}


@pytest.mark.parametrize("text", FILES, ids=[text[:12] for text in FILES])
def test_what_is_no_annotation_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"^--train: /.*a\.json: ") as error:
        read_annotations("--train", str(file))
    assert FILES[text] in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(ValueError, match=f"--val: {path}: .*; expected a COCO annotation file"):
            read_annotations("--val", str(path))
