"""Objects that are neither to be found nor background: crowds, and what a teacher is unsure of.

Detectron2 leaves objects with ``iscrowd`` out of a training, so that what is found there counts as
background. Here they are kept as ``ignored``, beside ``instances`` and with the same fields; see
``fam_det.modeling.ignored`` for what a training does with them.
"""

from dataclasses import dataclass
from typing import Any

from detectron2.structures import BoxMode

IGNORED = -1  # class index


@dataclass(eq=False)
class IgnoringMapper:
    """A mapper that keeps crowds."""

    mapper: Any  # of records in Detectron2's format, such as its ``DatasetMapper``

    def __call__(self, record: dict[str, Any]) -> Any:
        """Maps a record."""
        objects = record.get("annotations", [])
        keypoints = max((len(x.get("keypoints", ())) for x in objects), default=0)
        kept = [_as_object(x, keypoints) if x.get("iscrowd", 0) else x for x in objects]
        mapped = self.mapper(record | ({"annotations": kept} if objects else {}))
        if mapped is not None and "instances" in mapped:
            instances = mapped["instances"]
            is_ignored = instances.gt_classes == IGNORED
            mapped |= {"instances": instances[~is_ignored], "ignored": instances[is_ignored]}
        return mapped


def _as_object(crowd: dict[str, Any], keypoints: int) -> dict[str, Any]:
    """Returns a crowd as an object of all fields; its box counts, whatever its mask."""
    x0, y0, x1, y1 = BoxMode.convert(crowd["bbox"], crowd["bbox_mode"], BoxMode.XYXY_ABS)
    found = crowd | {"iscrowd": 0, "category_id": IGNORED}
    found["segmentation"] = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return found | ({"keypoints": [0] * keypoints} if keypoints else {})


def without_labels(record: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of an image all of which is ignored, whatever objects it has."""
    box = [0, 0, record["width"], record["height"]]
    whole = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1}
    return record | {"annotations": [whole], "unlabelled": True}
