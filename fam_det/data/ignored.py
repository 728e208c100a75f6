"""Objects that are neither foreground nor background: crowds, and a teacher's uncertain labels.

Detectron2 drops objects with ``iscrowd`` in a training, so that detections there count as
background. Here they are returned as ``ignored``, beside ``instances`` and with the same fields;
see ``fam_det.modeling.ignored`` for their use in a training.
"""

from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode

IGNORED = -1  # class index


@dataclass(eq=False)
class IgnoringMapper:
    """A mapper that returns crowds as ``ignored``."""

    mapper: Any  # of records in Detectron2's format, such as its ``DatasetMapper``

    def __call__(self, record: dict[str, Any]) -> Any:
        """Maps a record."""
        objects = record.get("annotations", [])
        keypoints = max((len(x.get("keypoints", ())) for x in objects), default=0)
        objects = [_as_object(x, keypoints) if x.get("iscrowd", 0) else x for x in objects]
        mapped = self.mapper(record | ({"annotations": objects} if objects else {}))
        if mapped is not None and "instances" in mapped:
            instances = mapped["instances"]
            is_ignored = instances.gt_classes == IGNORED
            mapped |= {"instances": instances[~is_ignored], "ignored": instances[is_ignored]}
        return mapped


def _as_object(crowd: dict[str, Any], keypoints: int) -> dict[str, Any]:
    """Returns a crowd as an object with all fields, and its box as its mask."""
    x0, y0, x1, y1 = BoxMode.convert(crowd["bbox"], crowd["bbox_mode"], BoxMode.XYXY_ABS)
    entry = crowd | {"iscrowd": 0, "category_id": IGNORED}
    entry["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return entry | ({"keypoints": [0] * keypoints} if keypoints else {})


def without_labels(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of an image without its objects, and with all of its area ignored."""
    box = [0, 0, record["width"], record["height"]]
    crowd = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1}
    return record | {"annotations": [crowd], "unlabelled": True}
