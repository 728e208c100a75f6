"""A user's data sets, and training images in an order that a resumed run continues."""

from fam_det.data.coco import register_coco_datasets
from fam_det.data.loader import ResumableLoader, build_train_loader

__all__ = ["ResumableLoader", "build_train_loader", "register_coco_datasets"]
