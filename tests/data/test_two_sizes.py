"""The teacher's larger image, and the student's that is made from it, boxes and all."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fam_det.data.two_sizes import in_two_sizes
from tests.modeling.small_detector import small_config

from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng

SIZES = ("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MAX_SIZE_TRAIN", "90")
BOX, POLYGON = [10.0, 20.0, 60.0, 50.0], [10.0, 20.0, 60.0, 20.0, 60.0, 50.0]


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """An image of 100 x 150 with a box, a polygon, a mask and keypoints."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    annotation = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    annotation |= {"segmentation": [POLYGON], "keypoints": [30, 40, 2]}
    size = {"height": 100, "width": 150}
    return {"file_name": str(tmp_path / "noise.png"), **size, "annotations": [annotation]}


def mapper(augmentations: list[Any], **options: Any) -> DatasetMapper:
    options = {"use_instance_mask": True, "use_keypoint": True, **options}
    flip = np.array([0])
    return DatasetMapper(
        True,
        augmentations=augmentations,
        image_format="BGR",
        keypoint_hflip_indices=flip,
        **options,
    )


def resize(*sizes: int) -> T.ResizeShortestEdge:
    return T.ResizeShortestEdge(sizes, 2 * max(sizes), sample_style="choice")


def areas(image: torch.Tensor, scale: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(image.float(), scale)


@pytest.mark.parametrize("masks", ["polygon", "bitmask"])
def test_the_student_sees_what_the_teacher_sees_at_half_the_size(
    record: dict[str, Any], masks: str
) -> None:
    augmentations = [resize(48), T.RandomFlip(prob=1.0)]
    plain = mapper(augmentations, instance_mask_format=masks)
    small, both = plain(record), in_two_sizes(plain, 2)(record)
    assert both["image"].shape == small["image"].shape == (3, 48, 72)
    assert both["teacher_image"].shape == (3, 96, 144)
    assert (areas(both["teacher_image"], 2) - both["image"].float()).abs().max() <= 1
    # Objects are those of the student alone, whose sides are half of the teacher's.
    large = mapper([resize(96), T.RandomFlip(prob=1.0)])(record)
    for name in ("gt_boxes", "gt_keypoints"):
        own = getattr(both["instances"], name).tensor
        torch.testing.assert_close(own, getattr(small["instances"], name).tensor)
    boxes = both["instances"].gt_boxes.tensor
    torch.testing.assert_close(boxes, large["instances"].gt_boxes.tensor / 2)
    bits = both["instances"].gt_masks
    if masks == "bitmask":
        own = small["instances"].gt_masks.tensor
        assert (bits.tensor ^ own).float().mean() < 0.02
    else:
        expected = large["instances"].gt_masks.polygons[0][0] / 2
        np.testing.assert_allclose(bits.polygons[0][0], expected)
    assert torch.equal(large["image"], both["teacher_image"])


@pytest.mark.parametrize("scale", [1.5, 2, 2.7, 4])
def test_crops_before_and_after_the_resize_are_shared(record: dict[str, Any], scale: float) -> None:
    crops = [T.RandomCrop("relative_range", (0.5, 0.5)), resize(40, 56)]
    for augmentations in (crops, [*crops, T.RandomCrop("absolute", (32, 32))]):
        two = in_two_sizes(mapper(augmentations, use_instance_mask=False), scale)
        for seed in range(8):
            seed_all_rng(seed)
            mapped = two(record)
            image, large = mapped["image"], mapped["teacher_image"]
            for own, other in zip(image.shape[1:], large.shape[1:], strict=True):
                assert other <= own * scale + 0.5
                assert abs(other - own * scale) < 1
            enlarged = cv2.resize(large.permute(1, 2, 0).numpy(), image.shape[:0:-1], 0, 0, 0, 3)
            assert np.abs(enlarged.transpose(2, 0, 1) - image.numpy().astype(float)).max() <= 1
    assert max(image.shape[1:]) == 32


def test_large_scale_jitter_has_two_sizes_too(record: dict[str, Any]) -> None:
    jitter = [T.ResizeScale(0.5, 2.0, 64, 64), T.FixedSizeCrop((64, 64)), T.RandomFlip()]
    mapped = in_two_sizes(mapper(jitter, use_instance_mask=False), 2)(record)
    assert mapped["image"].shape == (3, 64, 64)
    assert mapped["teacher_image"].shape == (3, 128, 128)


def test_grey_images_keep_their_channel(record: dict[str, Any]) -> None:
    plain = mapper([resize(48)])
    plain.image_format = "L"
    mapped = in_two_sizes(plain, 2)(record)
    assert mapped["image"].shape == (1, 48, 72)
    assert mapped["teacher_image"].shape == (1, 96, 144)


def test_without_a_resize_the_student_has_no_size(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"INPUT_SCALE: no augmentation resizes .*ShortestEdge"):
        in_two_sizes(mapper([T.RandomFlip()]), 2)


def test_a_mapper_of_other_make_is_left_alone() -> None:
    assert in_two_sizes(dict, 2) is dict
    plain = DatasetMapper(small_config(*SIZES), is_train=True)
    assert in_two_sizes(plain, 1) is plain
