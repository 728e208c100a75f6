"""Training images in two sizes: a large one for the teacher, downsampled for the student.

Sizes in the config are the student's. An image is resized once, to ``scale`` times that size, and
all other augmentations are applied; then areas are averaged for the student. So both see the same
crop, flip and colours, and boxes, masks and keypoints are in the student's pixels.
"""

import copy
import math
from typing import Any

import cv2
import numpy as np
import torch

from fam_det.config import DISTILLED

from detectron2.config import CfgNode
from detectron2.data import transforms as T

RESIZES = (T.ResizeShortestEdge, T.Resize, T.ResizeScale)


class TwoSizeMapper:
    """Detectron2's ``DatasetMapper``, or one like it, that adds ``teacher_image`` to its output.

    Args:
        mapper: with ``augmentations``, one of which resizes; it is copied.
        scale: of the sides of ``teacher_image`` (3, H, W) to those of ``image``; 1 or more. A whole
            number is exact, any other within a pixel.

    Raises:
        ValueError: no augmentation that resizes.
    """

    def __init__(self, mapper: Any, scale: float) -> None:
        self.downsample = Downsample(scale)
        self.mapper = copy.copy(mapper)
        augmentations = getattr(mapper.augmentations, "augs", mapper.augmentations)
        augmentations = [*enlarge(augmentations, scale), self.downsample]
        self.mapper.augmentations = T.AugmentationList(augmentations)

    def __call__(self, record: dict[str, Any]) -> Any:
        """Maps a record in Detectron2's format."""
        mapped = self.mapper(record)
        if mapped is not None:
            large = self.downsample.large.transpose(2, 0, 1)
            mapped["teacher_image"] = torch.from_numpy(large.copy())
        return mapped


def input_scale(cfg: CfgNode) -> float:
    """Returns ``MODEL.TEACHER.INPUT_SCALE`` of a config that has a teacher, else 1."""
    is_distilled = cfg.MODEL.META_ARCHITECTURE == DISTILLED
    return float(cfg.MODEL.TEACHER.INPUT_SCALE) if is_distilled else 1.0


def in_two_sizes(mapper: Any, scale: float) -> Any:
    """Returns a mapper that gives images in two sizes.

    A user's own mapper without augmentations is returned as it is: it adds ``teacher_image``.
    """
    needs_two = scale > 1 and hasattr(mapper, "augmentations")
    return TwoSizeMapper(mapper, scale) if needs_two else mapper


def enlarge(augmentations: list[Any], scale: float) -> list[Any]:
    """Returns augmentations that make an image ``scale`` times as large.

    Raises:
        ValueError: none of them resizes.
    """
    enlarged: list[Any] = []
    resized = False
    for augmentation in augmentations:
        if isinstance(augmentation, RESIZES):
            resized = True
            augmentation = EnlargedResize(augmentation, scale)
        elif resized and _crops_pixels(augmentation):
            augmentation = copy.copy(augmentation)
            augmentation.crop_size = tuple(math.ceil(x * scale) for x in augmentation.crop_size)
        elif resized and any(_crops_pixels(x) for x in vars(augmentation).values()):
            raise ValueError(
                f"MODEL.TEACHER.INPUT_SCALE: {augmentation} crops to a number of pixels inside of "
                "another augmentation, which cannot be enlarged; put it before the resize"
            )
        enlarged.append(augmentation)
    if not resized:
        raise ValueError(
            "MODEL.TEACHER.INPUT_SCALE: no augmentation resizes the training images, expected "
            f"one of {[x.__name__ for x in RESIZES]} to the student's size"
        )
    return enlarged


def _crops_pixels(augmentation: Any) -> bool:
    """Returns whether it crops to a number of pixels, not to a share of the image."""
    kind = getattr(augmentation, "crop_type", "absolute")
    return hasattr(augmentation, "crop_size") and str(kind).startswith("absolute")


class EnlargedResize(T.Augmentation):
    """A resize to ``scale`` times the output size of another resize."""

    def __init__(self, resize: T.Augmentation, scale: float) -> None:
        super().__init__()
        self.resize, self.scale = resize, scale

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Returns the transform of an image (H, W, C)."""
        height, width = image.shape[:2]
        small: Any = self.resize.get_transform(image)
        # A NoOpTransform has no size.
        size: Any = getattr(small, "new_h", height), getattr(small, "new_w", width)
        large = (math.ceil(side * self.scale) for side in size)
        return T.ResizeTransform(height, width, *large, getattr(small, "interp", None))


class Downsample(T.Augmentation):
    """Averages areas of ``scale`` x ``scale`` pixels; keeps its input as ``large``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.large = np.zeros((0, 0, 3), np.uint8)

    def get_transform(self, image: np.ndarray) -> "AreaTransform":
        """Returns the transform of an image (H, W, C); it may drop the last rows and columns."""
        height, width = (max(int(side / self.scale + 1e-6), 1) for side in image.shape[:2])
        rows, columns = (
            min(round(side * self.scale), limit)
            for side, limit in zip((height, width), image.shape[:2], strict=True)
        )
        self.large = image[:rows, :columns]
        return AreaTransform(rows, columns, height, width)


class AreaTransform(T.ResizeTransform):
    """A resize to ``new_h`` x ``new_w`` pixels, each the mean of the area that it covers.

    It drops all but the first ``h`` rows and ``w`` columns of an image.
    """

    def apply_image(self, img: np.ndarray, interp: Any = None) -> np.ndarray:
        """Resizes an image (H, W) or (H, W, C); a mask with ``interp``, which only masks have."""
        img = img[: self.h, : self.w]
        if interp is not None:
            return super().apply_image(img, interp)
        size = (self.new_w, self.new_h)
        small: np.ndarray = cv2.resize(img, size, interpolation=cv2.INTER_AREA)
        return small.reshape(self.new_h, self.new_w, *img.shape[2:])
