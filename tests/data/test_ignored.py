"""Crowds as a mapper keeps them, and images without labels."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fam_det.data.batch_sampler import repeat_factors
from fam_det.data.ignored import IgnoringMapper, without_labels

from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode


def record(folder: Path, *boxes: tuple[list[float], int]) -> dict[str, Any]:
    cv2.imwrite(str(folder / "a.png"), np.zeros((40, 60, 3), np.uint8))
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": crowd}
        for box, crowd in boxes
    ]
    size = {"height": 40, "width": 60, "image_id": 1}
    return {"file_name": str(folder / "a.png"), **size, "annotations": annotations}


@pytest.mark.parametrize("masks", [None, "polygon", "bitmask"])
def test_crowds_are_turned_with_the_image(tmp_path: Path, masks: str | None) -> None:
    source = record(tmp_path, ([10, 5, 20, 10], 0), ([0, 0, 30, 20], 1))
    source["annotations"][0]["segmentation"] = [[10, 5, 30, 5, 30, 15]]
    # Of a real crowd, which an object of Detectron2's polygons may not be.
    source["annotations"][1]["segmentation"] = {"size": [40, 60], "counts": [0, 2400]}
    options = {"use_instance_mask": bool(masks), "instance_mask_format": masks or "polygon"}
    flip = [T.RandomFlip(prob=1.0)]
    plain = DatasetMapper(True, augmentations=flip, image_format="BGR", **options)
    mapped = IgnoringMapper(plain)(source)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[30, 5, 50, 15]]
    assert mapped["ignored"].gt_boxes.tensor.tolist() == [[30, 0, 60, 20]]
    assert mapped["instances"].has("gt_masks") == mapped["ignored"].has("gt_masks") == bool(masks)
    assert [x["iscrowd"] for x in source["annotations"]] == [0, 1]


def test_an_image_without_labels_is_ignored_as_a_whole(tmp_path: Path) -> None:
    plain = DatasetMapper(True, augmentations=[], image_format="BGR")
    mapped = IgnoringMapper(plain)(without_labels(record(tmp_path, ([10, 5, 20, 10], 0))))
    assert mapped["unlabelled"] and len(mapped["instances"]) == 0
    assert mapped["ignored"].gt_boxes.tensor.tolist() == [[0, 0, 60, 40]]


def test_data_sets_have_their_shares() -> None:
    factors = repeat_factors([1.0, 3.0], [100, 20])
    assert factors.shape == (120,)
    torch.testing.assert_close(factors[:100].sum() * 3, factors[100:].sum())
    torch.testing.assert_close(factors.sum(), torch.tensor(120.0))
    with pytest.raises(ValueError, match=r"TRAIN_SHARES: got \[1.0\], expected .* 2 data sets"):
        repeat_factors([1.0], [3, 4])
