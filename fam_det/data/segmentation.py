"""Masks and keypoints of an annotation: pycocotools and its like read them in C and trust them.

A run length that does not fit its image makes them write past their memory, and a polygon that
reaches far out of it makes them ask for all of the machine's.

Legend: H and W height and width of the image in pixels.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fam_det.files import short

MOST_CHARACTERS = 7  # of a run in the compressed form, 5 bits each: below 2^31 with a sign


def check_segmentation(segmentation: Any, height: int, width: int) -> bool:
    """Check polygons or run lengths.

    Args:
        segmentation: of an annotation; None or an empty one for none.
        height: H.
        width: W.

    Returns:
        Whether it can be used: Detectron2 leaves out an object none of whose polygons has three
        points.

    Raises:
        ValueError: another form, a point that is no number or more than a side outside of the
            image, or run lengths that are not those of an image of this size.
    """
    if not segmentation:
        return True
    if isinstance(segmentation, dict):
        _check_runs(segmentation, height, width)
        return True
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation: got {short(segmentation)}, expected polygons or runs")
    for polygon in segmentation:
        _check_polygon(polygon, max(height, width))
    return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)


def check_keypoints(keypoints: Any) -> None:
    """Raise a ValueError unless it is None or x, y and visibility of each keypoint."""
    if keypoints and not (
        isinstance(keypoints, list) and len(keypoints) % 3 == 0 and _are_finite(keypoints)
    ):
        raise ValueError(f"keypoints: got {short(keypoints)}, expected [x, y, visibility, ...]")


def decode_runs(counts: str) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed form, of pixels out of the object and in it by turns.

    A number takes characters of 5 bits from "0" on, the lowest first; the sixth bit says that more
    follow. From the fourth on a run is stored as its difference to the one two before.

    Raises:
        ValueError: text that is not of that form.
    """
    if not counts.isascii():
        raise ValueError("characters that are no ASCII")
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord("0")
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("characters that are not COCO's, or too few of them")
    ends = np.flatnonzero(codes & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > MOST_CHARACTERS:
        raise ValueError("a number of too many characters")
    starts = ends - lengths + 1
    places = np.arange(codes.size) - np.repeat(starts, lengths)
    runs: NDArray[np.int64] = np.add.reduceat((codes & 31) << 5 * places, starts)
    runs[codes[ends] & 16 != 0] -= 1 << (5 * lengths[codes[ends] & 16 != 0])  # negative ones
    for first in (1, 2):
        runs[first::2] = runs[first::2].cumsum()
    return runs


def _check_runs(segmentation: dict[str, Any], height: int, width: int) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"segmentation: size: got {short(size)}, expected {[height, width]}")
    if isinstance(counts, str):
        try:
            counts = decode_runs(counts).tolist()
        except ValueError as error:
            raise ValueError(f"segmentation: counts: {error}") from error
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        raise ValueError(f"segmentation: counts: got {short(counts)}, expected lengths of runs")
    if sum(counts) != height * width:
        raise ValueError(
            f"segmentation: counts: got runs of {sum(counts)} pixels, expected {height * width}"
        )


def _check_polygon(polygon: Any, side: int) -> None:
    if not isinstance(polygon, list) or not _are_finite(polygon):
        raise ValueError(f"segmentation: got {short(polygon)}, expected points [x, y, x, y, ...]")
    if polygon and (min(polygon) < -side or max(polygon) > 2 * side):
        far = min(polygon) if min(polygon) < -side else max(polygon)
        raise ValueError(f"segmentation: a point at {short(far)} is far out of the image")


def _are_finite(numbers: list[Any]) -> bool:
    try:
        return math.isfinite(sum(numbers))  # three times as fast as one by one
    except (TypeError, OverflowError):
        return False
