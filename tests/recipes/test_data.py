"""Reading data in COCO format, and saying in one line what is wrong with it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fam_det.data.audit import list_names
from fam_det.recipes.data import CocoData, check_same_classes, read_coco
from tests.recipes.conftest import POLYGON, content

RLE = {"size": [64, 96], "counts": [6000, 144]}
BOX = [[2, 2, 30, 2, 30, 26, 2, 26]]
CORNERS = [[2, 2, 30, 26]]
INCLUSIVE = [[2.3, 1.6, 29, 1.6, 29, 25, 2.3, 25]]  # rounded, and to the last pixel


def test_what_is_read(write: Callable[..., tuple[str, str]]) -> None:
    data = content(("b", "a"), 5)
    data["categories"].reverse()  # the order is that of the ids
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1]["image_id"] = 2
    annotations, images = write(data)
    got = read_coco("--train", annotations, images)
    # Image 0 has a crowd alone, image 1 nothing.
    assert got == CocoData(annotations, images, ("b", "a"), 5, 3, False, False, (64, 96), 2)


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([POLYGON, POLYGON], (True, False)),
        ([POLYGON, RLE], (True, True)),
        ([POLYGON, []], (False, False)),
        ([POLYGON, None], (False, False)),
        ([BOX, POLYGON], (True, False)),
        ([BOX, INCLUSIVE], (False, False)),
        ([CORNERS, CORNERS], (False, False)),
        ([CORNERS, POLYGON], (True, False)),
    ],
)
def test_masks_count_where_every_object_has_one(
    masks: list[Any], expected: tuple[bool, bool], write: Callable[..., tuple[str, str]]
) -> None:
    data = content(("a",), 2)
    for annotation, mask in zip(data["annotations"], masks, strict=True):
        annotation["segmentation"] = mask
    got = read_coco("--train", *write(data))
    assert (got.has_masks, got.has_bitmasks) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": []}, "has no annotations, expected boxes"),
        (
            {"annotations": content(("a",), 2, iscrowd=1)["annotations"]},
            r"all 2 annotations are crowds \(iscrowd 1\)",
        ),
        ({"categories": []}, "has no categories, expected one for"),
    ],
)
def test_wrong_content_is_named(
    changed: dict[str, Any], message: str, write: Callable[..., tuple[str, str]]
) -> None:
    with pytest.raises(ValueError, match=rf"^--val: .*all.json: .*{message}"):
        read_coco("--val", *write(content(("a", "b"), 2) | changed))


def test_missing_files_are_named(write: Callable[..., tuple[str, str]]) -> None:
    annotations, images = write(content(("a",), 3))
    with pytest.raises(ValueError, match=r"--train: no.json: No such file"):
        read_coco("--train", "no.json", images)
    with pytest.raises(ValueError, match="--train: the image folder 'none' does not exist"):
        read_coco("--train", annotations, "none")
    (Path(images) / "1.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images are not in .*, such as '1.png'"):
        read_coco("--train", annotations, images)


def test_classes_must_be_in_one_order(coco: Callable[..., CocoData]) -> None:
    train = coco("a", "b")
    check_same_classes(train, train)
    val = replace(train, class_names=("b", "a"))
    with pytest.raises(ValueError, match=r"--val: .* 2 \(b, a\), but --train .* has 2 \(a, b\)"):
        check_same_classes(train, val)


def test_list_of_names_is_cut() -> None:
    assert list_names("ab") == "2 (a, b)"
    assert list_names("abcd") == "4 (a, b, c, ...)"
