"""Masks as pycocotools writes them, and those that would make it write past its memory."""

from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from fam_det.data.annotations import (
    check_keypoints,
    check_segmentation,
    decode_runs,
    has_segmentation,
)

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans())


def runs_of(mask: np.ndarray) -> list[int]:
    """Lengths of runs in column order, the first of them outside of the object."""
    pixels = mask.flatten(order="F").tolist()
    found = [len(list(group)) for _, group in groupby(pixels)]
    return [0, *found] if pixels[0] else found


@given(mask=MASKS)
@settings(max_examples=100, deadline=None)
def test_what_pycocotools_writes_is_decoded_and_passes(mask: np.ndarray) -> None:
    written = coco_mask.encode(np.asfortranarray(mask))
    counts = written["counts"].decode()
    assert decode_runs(counts) == runs_of(mask)
    for form in (counts, runs_of(mask)):
        assert check_segmentation({"size": list(mask.shape), "counts": form}, *mask.shape)


def test_long_runs_are_decoded() -> None:
    mask = np.zeros((3000, 2000), np.uint8)
    mask[7:2990, 5:1990] = 1
    written = coco_mask.encode(np.asfortranarray(mask))
    assert decode_runs(written["counts"].decode()) == runs_of(mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [64, 96], "counts": "abc"}, "counts: got '.*', expected lengths"),
        ({"size": [64, 96], "counts": "o"}, "counts: got '.*', expected lengths"),
        ({"size": [64, 96], "counts": "é"}, "counts: got '.*', expected lengths"),
        ({"size": [64, 96], "counts": "P" * 9 + "0"}, "counts: got '.*', expected lengths"),
        ({"size": [64, 96], "counts": [6143]}, "counts: got runs of 6143 pixels, expected 6144"),
        ({"size": [64, 96], "counts": [10**12]}, "counts: got runs of 1000000000000 pixels"),
        ({"size": [64, 96], "counts": [6145, -1]}, r"counts: got \[6145, -1\], expected lengths"),
        ({"size": [64, 96]}, "counts: got None"),
        ({"size": [10**6, 10**6], "counts": "abc"}, r"size: got \[1000000, 1000000\], expected"),
        ({"counts": [6144]}, r"size: got None, expected \[64, 96\]"),
        ("polygon", "got 'polygon', expected polygons or runs"),
        ([[1, 2, 3, 4, 5, "x"]], "got .*, expected points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "got .*, expected points"),
        ([[1, 2, 3, 4, 5, float("inf")]], "got .*, expected points"),
        ([[1, 2, 3, 4, 5, 1e300]], r"a point at 1e\+300 is far out of the image"),
        ([[1, 2, 3, 4, 5, -97]], "a point at -97 is far out of the image"),
        ([3], r"got \[3\], expected a list a polygon"),
    ],
)
def test_what_would_harm_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"segmentation: {message}"):
        check_segmentation(segmentation, 64, 96)


def test_polygons_without_three_points_cannot_be_used() -> None:
    assert not check_segmentation([[1, 2, 3, 4]], 64, 96)
    assert not check_segmentation([[1, 2, 3, 4, 5, 6, 7]], 64, 96)
    assert check_segmentation([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6.5]], 64, 96)
    assert not any(has_segmentation({"segmentation": x}) for x in (None, [], [[]], {}))


def test_keypoints() -> None:
    for right in (None, [], [1, 2.5, 2] * 17):
        check_keypoints(right)
    for wrong in ("x", [1, 2], [1, 2, None], [float("nan")] * 3, 3, {"x": 1}):
        with pytest.raises(ValueError, match="keypoints: got .*expected"):
            check_keypoints(wrong)
